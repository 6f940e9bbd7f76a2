"""PTX -> C++: a function per kernel, a statement per instruction, for machine.h. What it does not know is an error."""

from __future__ import annotations

import re

TYPES = {f"{s}{n}": f"std::{'' if s == 's' else 'u'}int{n}_t" for s in "sub" for n in (8, 16, 32, 64)}
TYPES |= {"f32": "float", "f64": "double", "pred": "bool"}
RAW = {"f": "b"}  # what moves bits has no number
SPECIAL = {"%tid.x": "t.tid", "%ctaid.x": "t.ctaid", "%ntid.x": "t.ntid", "%nctaid.x": "t.nctaid"}
SPECIAL |= {f"%{name}.{axis}": value for name, value in (("tid", "0u"), ("ctaid", "0u"), ("ntid", "1u")) for axis in "yz"}
SPECIAL |= {"%laneid": "(t.tid % 32)", "WARP_SZ": "32u"}
COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
UNSIGNED_COMPARE = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}
UNORDERED = {"ltu": ">=", "leu": ">", "gtu": "<=", "geu": "<", "equ": "!=", "neu": "=="}  # their negation
BITWISE = {"and": "&", "or": "|", "xor": "^"}
ARITHMETIC = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
APPROXIMATE = {"ex2": "std::exp2({})", "lg2": "std::log2({})", "rcp": "1 / {}", "rsqrt": "1 / std::sqrt({})",
               "sqrt": "std::sqrt({})", "sin": "std::sin({})", "cos": "std::cos({})", "tanh": "std::tanh({})"}  # fmt: skip
ATOMIC = {"add": "{t}(old + {b})", "min": "{b} < old ? {b} : old", "max": "{b} > old ? {b} : old", "exch": "{b}",
          "and": "{t}(old & {b})", "or": "{t}(old | {b})", "xor": "{t}(old ^ {b})", "cas": "old == {b} ? {c} : old"}  # fmt: skip
SCOPES = {"relaxed", "cta", "gpu", "sys"}
PARAMETER = re.compile(
    r"\.param\s+(?:\.align\s+(\d+)\s+)?\.\w(\d+)\s+(?:\.ptr(?: \.\w+)?\s+\.align\s+\d+\s+)?(\w+)(?:\[(\d+)\])?"
)
IGNORED = re.compile(r'\.(pragma "[\w ]+";|maxntid.*|version.*|target.*|address_size.*|visible|minnctapersm.*)')


class UnknownPtxError(Exception):
    """A line that this translator does not know."""


def need(condition: object) -> None:
    if not condition:
        raise UnknownPtxError


class Body:
    """The statements of one kernel."""

    def __init__(self, symbols: dict[str, str]) -> None:
        self.symbols = symbols  # parameters and shared variables, by name
        self.exchanges = False  # within a warp

    def value(self, text: str) -> str:
        if text in SPECIAL or text in self.symbols:
            return SPECIAL.get(text) or self.symbols[text]
        if re.fullmatch(r"%[a-z]+\d+", text):
            return text[1:]
        if re.fullmatch(r"0[fFdD]([0-9a-fA-F]{8}){1,2}", text):
            return f"UINT{4 * len(text) - 8}_C(0x{text[2:]})"
        need(re.fullmatch(r"-?\d+|0x[0-9a-fA-F]+", text))
        return f"UINT64_C({int(text, 0) % 2**64:#x})"

    def get(self, kind: str, text: str) -> str:
        need(kind in TYPES)
        return f"get<{TYPES[kind]}>({self.value(text)})"

    def put(self, text: str, value: str) -> str:
        return "" if text == "_" else f"{self.value(text)} = bits({value});"

    def address(self, text: str, space: str) -> str:
        base, offset = re.fullmatch(r"\[([^+\]]+)(?:\+(-?\d+))?\]", text).groups()
        window = "kShared | " if space == "shared" else ""
        return f"({window}std::uint64_t({self.value(base)}) + UINT64_C({int(offset or 0) % 2**64:#x}))"

    def statement(self, name: str, rest: str) -> str:
        op, *words = name.split(".")
        a = [part.strip() for part in re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,{}\[\]]+", rest) if part.strip()]
        kind = words[-1] if words else ""
        method = getattr(self, f"_{op}", None)
        if method is not None:
            return method(words, a)
        raw = RAW.get(kind[:1], kind[:1]) + kind[1:]
        if op in BITWISE or op == "not":
            need(words == [kind])
            x = [self.get(kind, one) for one in a[1:]]
            return self.put(a[0], f"{TYPES[kind]}({f' {BITWISE[op]} '.join(x) if op in BITWISE else ('!' if kind == 'pred' else '~') + x[0]})")
        if op in ("shl", "shr"):
            return self.put(a[0], f"shift_{'left' if op == 'shl' else 'right'}({self.get(kind, a[1])}, {self.get('u32', a[2])})")
        if op == "selp":
            return self.put(a[0], f"{self.value(a[3])} ? {self.get(raw, a[1])} : {self.get(raw, a[2])}")
        if op in ("min", "max"):
            need(words == [kind])
            return self.put(a[0], f"least({self.get(kind, a[1])}, {self.get(kind, a[2])}, {str(op == 'max').lower()})")
        if op in ("abs", "neg"):
            need(words == [kind])
            if kind[0] == "f":
                sign = f"(1ull << {int(kind[1:]) - 1})"
                return self.put(a[0], f"{TYPES[raw]}({self.get(raw, a[1])} {f'& ~{sign}' if op == 'abs' else f'^ {sign}'})")
            x = self.get(kind, a[1])
            return self.put(a[0], f"{TYPES[kind]}({f'{x} < 0 ? 0ull - {x} : {x}' if op == 'abs' else f'0ull - {x}'})")
        if op == "rem" or (op == "div" and kind[0] in "su"):
            need(words == [kind])
            return self.put(a[0], f"divide({self.get(kind, a[1])}, {self.get(kind, a[2])}, {str(op == 'rem').lower()})")
        if kind in ("f32", "f64"):
            return self.floating(op, words, a, kind)
        if op in ARITHMETIC or op == "mad":
            return self.integer(op, words, a, kind)
        simple = {"bfe.u32": "bit_field({}, {}, {})", "prmt.b32": "permuted({}, {}, {})", "popc.b32": "std::popcount({})",
                  "clz.b32": "std::countl_zero({})", "popc.b64": "std::popcount({})", "lop3.b32": "three_way({}, {}, {}, {})"}  # fmt: skip
        need(name in simple)
        return self.put(a[0], simple[name].format(*(self.get(kind, one) for one in a[1:])))

    def floating(self, op: str, words: list[str], a: list[str], kind: str) -> str:
        flush = "flushed" if "ftz" in words else ""
        modes = [word for word in words[:-1] if word != "ftz"]
        x = [f"{flush}({self.get(kind, one)})" for one in a[1:]]
        if modes == ["approx"] and op in APPROXIMATE:
            return f"machine.last.approximates = true; {self.put(a[0], f'{flush}({TYPES[kind]}({APPROXIMATE[op].format(x[0])}))')}"
        if op == "div" and modes in (["full"], ["approx"]):
            return f"machine.last.approximates = true; {self.put(a[0], f'{flush}({x[0]} / {x[1]})')}"
        need(modes == ["rn"])  # without it, ptxas may contract
        if op == "fma":
            return self.put(a[0], f"{flush}(std::fma({x[0]}, {x[1]}, {x[2]}))")
        if op in ("sqrt", "rcp"):
            return self.put(a[0], f"{flush}({'std::sqrt' if op == 'sqrt' else TYPES[kind] + '(1) / '}({x[0]}))")
        need(op in ARITHMETIC)
        return self.put(a[0], f"{flush}({x[0]} {ARITHMETIC[op]} {x[1]})")

    def integer(self, op: str, words: list[str], a: list[str], kind: str) -> str:
        u, width = "u" + kind[1:], int(kind[1:])
        x = [self.get(u, one) for one in a[1:]]
        if op in ("add", "sub"):
            need(words == [kind])
            return self.put(a[0], f"{TYPES[u]}({x[0]} {ARITHMETIC[op]} {x[1]})")
        need(words[:-1] in (["lo"], ["hi"], ["wide"]))
        signed = [self.get(kind, one) for one in a[1:3]]
        wide = "int128" if kind[0] == "s" else "uint128"
        product = f"({wide}({signed[0]}) * {signed[1]})"
        if words[0] == "wide":
            result = TYPES[f"u{2 * width}"]
            add = f" + {self.get(f'u{2 * width}', a[3])}" if op == "mad" else ""
        else:
            result = TYPES[u]
            product = f"({product} >> {width})" if words[0] == "hi" else product
            add = f" + {x[2]}" if op == "mad" else ""
        return self.put(a[0], f"{result}({result}({product}){add})")

    def _mov(self, words: list[str], a: list[str]) -> str:
        need(len(words) == 1)
        kind = words[0] if words[0] == "pred" else "b" + words[0][1:]
        parts = [one.strip() for text in a if text[0] == "{" for one in text.strip("{}").split(",")]
        if not parts:
            return self.put(a[0], self.get(kind, a[1]))
        width = int(kind[1:]) // len(parts)
        if a[0][0] == "{":
            return " ".join(self.put(one, f"std::uint{width}_t({self.get(kind, a[1])} >> {i * width})") for i, one in enumerate(parts))
        return self.put(a[0], " | ".join(f"{TYPES[kind]}({self.get(f'b{width}', one)}) << {i * width}" for i, one in enumerate(parts)))

    def _cvta(self, words: list[str], a: list[str]) -> str:
        window = {"global": "", "param": "", "shared": "kShared | "}[words[-2]]
        need(words[0] != "to" or not window)
        return self.put(a[0], f"{window}std::uint64_t({self.value(a[1])})")

    def _ld(self, words: list[str], a: list[str]) -> str:
        return self.memory(words, a[1], a[0], True)

    def _st(self, words: list[str], a: list[str]) -> str:
        return self.memory(words, a[0], a[1], False)

    def memory(self, words: list[str], where: str, registers: str, loads: bool) -> str:
        *modes, kind = words
        space = modes.pop(0) if modes and modes[0] in ("param", "global", "shared") else "generic"
        cached = loads and modes[:1] == ["nc"]
        modes = modes[1:] if cached else modes
        names = [one.strip() for one in registers.strip("{}").split(",")]
        need(modes == ([f"v{len(names)}"] if len(names) > 1 else []))
        c, at = TYPES[RAW.get(kind[0], kind[0]) + kind[1:]], self.address(where, space)
        if not loads:
            values = ", ".join(f"get<{c}>({self.value(one)})" for one in names)
            return f"const {c} v[] = {{{values}}}; t.store({at}, v, sizeof v);"
        puts = " ".join(self.put(one, f"v[{i}]") for i, one in enumerate(names))
        return f"{c} v[{len(names)}]; t.load({at}, v, sizeof v, {str(cached).lower()}); {puts}"

    def _setp(self, words: list[str], a: list[str]) -> str:
        compare, kind = words[0], words[-1]
        need(len(words) == 2 and len(a) == 3)
        compare = UNSIGNED_COMPARE.get(compare, compare)
        x, y = self.get(kind, a[1]), self.get(kind, a[2])
        if compare in ("num", "nan"):
            return self.put(a[0], f"{'!' if compare == 'num' else ''}(std::isnan({x}) || std::isnan({y}))")
        if compare in UNORDERED:
            return self.put(a[0], f"!({x} {UNORDERED[compare]} {y})")
        ordered = f" && {x} == {x} && {y} == {y}" if kind[0] == "f" and compare == "ne" else ""
        return self.put(a[0], f"{x} {COMPARE[compare]} {y}{ordered}")

    def _cvt(self, words: list[str], a: list[str]) -> str:
        *modes, to, source = words
        if "f16" in (to, source):
            need(modes == (["rn"] if to == "f16" else []))
            number = f"of_half({self.value(a[1])})" if source == "f16" else self.get(source, a[1])
            return self.put(a[0], f"half_of({number})" if to == "f16" else f"{TYPES[to]}({number})")
        x = self.get(source, a[1])
        if to[0] == "f":
            need(modes == ([] if (to, source) == ("f64", "f32") else ["rn"]))
            return self.put(a[0], f"static_cast<{TYPES[to]}>({x})")
        if source[0] == "f":
            need(len(modes) == 1 and re.fullmatch(r"r[znmp]i", modes[0]))
            return self.put(a[0], f"to_integer<{TYPES[to]}>({x}, '{modes[0][1]}')")
        need(modes == [])
        return self.put(a[0], f"static_cast<{TYPES[to]}>({x})")

    def _bra(self, words: list[str], a: list[str]) -> str:
        need(words in ([], ["uni"]))
        return f"goto {a[0].replace('$', 'L')};"

    def _ret(self, words: list[str], a: list[str]) -> str:
        return "t.state = Thread::ended; return;"

    def _bar(self, words: list[str], a: list[str]) -> str:
        need((words, a) in ((["sync"], ["0"]), (["warp", "sync"], a)))
        return "t.state = Thread::at_barrier; WAIT;" if words == ["sync"] else self.exchange(a[0], "0")

    def exchange(self, mask: str, value: str) -> str:
        self.exchanges = True
        return f"t.exchange({self.get('u32', mask)}, {value}); WAIT;"

    def _membar(self, words: list[str], a: list[str]) -> str:
        return ""

    def _shfl(self, words: list[str], a: list[str]) -> str:
        need(words[0] == "sync" and words[-1] == "b32")
        to, _, in_range = a[0].partition("|")
        mode = {"up": "u", "down": "d", "bfly": "b", "idx": "i"}[words[1]]
        x = [self.get("u32", one) for one in a[1:5]]
        keep = self.put(in_range, "is") if in_range else ""
        return f"{self.exchange(a[4], x[0])} bool is = false; {self.put(to, f'''t.shuffle('{mode}', {x[1]}, {x[2]}, is)''')} {keep}"

    def _vote(self, words: list[str], a: list[str]) -> str:
        need(words[0] == "sync")
        result = {"ballot": "t.ballot()", "any": "t.ballot() != 0", "all": "t.ballot() == t.mask"}[words[1]]
        return f"{self.exchange(a[2], self.value(a[1]))} {self.put(a[0], result)}"

    def _atom(self, words: list[str], a: list[str]) -> str:
        space, op, kind = [word for word in words if word not in SCOPES]
        need(space in ("global", "shared") and op in ATOMIC)
        x = [self.get(kind, one) for one in a[2:]]
        following = ATOMIC[op].format(t=TYPES[kind], b=x[0], c=x[-1])
        call = f"t.atomic<{TYPES[kind]}>({self.address(a[1], space)}, [&]({TYPES[kind]} old) {{ return {following}; }})"
        return self.put(a[0], call) or f"{call};"

    def _red(self, words: list[str], a: list[str]) -> str:
        return self._atom(words, ["_", *a])


def variable(line: str, symbols: dict[str, str], shared: int) -> int:
    """Places a shared variable behind what there is of shared memory, and returns how much there is then."""
    found = re.fullmatch(r"\.shared\s+\.align\s+(\d+)\s+\.\w(\d+)\s+(\w+)(?:\[(\d+)\])?;", line)
    if found is None:
        raise UnknownPtxError(line)
    begin = -(-shared // int(found[1])) * int(found[1])
    symbols[found[3]] = f"(kFirst + {begin})"
    return begin + int(found[2]) // 8 * int(found[4] or 1)


def kernel(name: str, declared: str, directives: str, text: str, symbols: dict[str, str], shared: int) -> str:
    """C++ of one kernel, and its entry of the table."""
    parameters = []
    for i, one in enumerate(filter(None, (part.strip() for part in declared.split(",\n")))):
        found = PARAMETER.fullmatch(one)
        if found is None:
            raise UnknownPtxError(f"{name}: {one}")
        width = int(found[2]) // 8
        symbols[found[3]] = f"parameter_address({i})"
        parameters.append(f"{{{width * int(found[4] or 1)}, {found[1] or width}}}")
    body, lines, kinds = Body(symbols), [], {}
    blocks: dict[str, set[int]] = {}  # of each register: the basic blocks that it occurs in
    block = instructions = doubles = 0

    def end_of_block() -> None:
        nonlocal block, instructions, doubles
        lines.append(f"t.count({instructions}, {doubles});")
        block, instructions, doubles = block + 1, 0, 0

    for line in filter(None, (one.strip() for one in text.split("\n"))):
        registers = re.fullmatch(r"\.reg\s+\.(\w+)\s+%([a-z]+)<(\d+)>;", line)
        if registers:
            kind = TYPES[RAW.get(registers[1][0], registers[1][0]) + registers[1][1:]] if registers[1] != "pred" else "bool"
            kinds |= {f"{registers[2]}{i}": kind for i in range(int(registers[3]))}
        elif line.startswith(".shared"):
            shared = variable(line, symbols, shared)
        elif re.fullmatch(r"\$\w+:", line):
            end_of_block()
            lines.append(f"{line.replace('$', 'L')};")
        elif not IGNORED.fullmatch(line):
            found = re.fullmatch(r"(?:@(!?)%(p\d+)\s+)?([a-z][\w.:]*)\s*(.*);", line)
            try:
                need(found)
                code = body.statement(found[3], found[4])
            except (UnknownPtxError, KeyError, ValueError, AttributeError, IndexError, TypeError) as error:
                raise UnknownPtxError(f"{name}: {line}") from error
            instructions += 1
            doubles += ".f64" in found[3] and not found[3].startswith(("ld", "st", "mov", "selp"))
            waits = "WAIT;" in code  # in the middle of the statement
            for register in re.findall(r"%([a-z]+\d+)", line):
                blocks.setdefault(register, set()).update((block, block + waits))
            ends = found[3].split(".")[0] in ("bra", "ret")
            if ends:
                end_of_block()
            lines.append(f"if ({found[1]}{found[2]}) {{ {code} }}" if found[2] else f"{{ {code} }}")
            block += waits
    text, waits = "\n".join(lines), 0
    kept = [register for register, where in blocks.items() if len(where) > 1 and register in kinds]
    while "WAIT;" in text:
        waits += 1
        text = text.replace("WAIT;", f"t.resume = {waits}; goto wait; R{waits}:;", 1)
    state = "".join(f"{kinds[register]} {register}; " for register in kept)
    restore = "".join(f"{register} = s.{register}; " for register in kept)
    save = "".join(f"s.{register} = {register}; " for register in kept)
    resume = "".join(f"case {i}: goto R{i}; " for i in range(1, waits + 1))
    declared = "".join(f"{kinds[register]} {register} = 0; " for register in blocks if register in kinds)
    together = f"auto& s = *static_cast<State*>(t.state_memory); if (t.resume != 0) {{ {restore} switch (t.resume) {{ {resume} }} }}"
    most = re.search(r"\.maxntid (\d+)", directives)
    entry = f'"{name}", run, {f"sizeof(State)" if waits else 0}, {shared}, {most[1] if most else 1024}, '
    entry += f"{str(body.exchanges).lower()}, {{{', '.join(parameters)}}}"
    return f"""namespace ptx::{name} {{
struct State {{ {state} }};
static void run(Thread& t) {{
{declared}
{together if waits else ""}
{text}
{f"wait: {save}" if waits else ""}
}}
static const bool known = add({{{entry}}});
}}
"""


def translate(text: str) -> dict[str, str]:
    """By name, C++ of every kernel in a PTX file."""
    text = re.sub(r"//[^\n]*", "", text)
    pattern = r"\.entry\s+(\w+)\(\s*(.*?)\)\s*((?:\.\w+[^{]*)?)\{(.*?)\n\}"
    symbols, shared = {}, 0
    for line in filter(None, (one.strip() for one in re.sub(pattern, "", text, flags=re.DOTALL).split("\n"))):
        if line.startswith(".shared"):
            shared = variable(line, symbols, shared)
        elif not IGNORED.fullmatch(line):
            raise UnknownPtxError(line)
    return {found[0]: kernel(*found, dict(symbols), shared) for found in re.findall(pattern, text, re.DOTALL)}

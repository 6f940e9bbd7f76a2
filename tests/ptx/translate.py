"""PTX -> C++ for machine.h: a function per kernel, a statement per instruction. What it does not know is an error."""

from __future__ import annotations

import re

# fmt: off
TYPES = {f"{s}{n}": f"std::{'' if s == 's' else 'u'}int{n}_t" for s in "sub" for n in (8, 16, 32, 64)}
TYPES |= {"f32": "float", "f64": "double", "pred": "bool"}
SPECIAL = {"%tid.x": "t.tid", "%ctaid.x": "t.ctaid", "%ntid.x": "t.ntid", "%nctaid.x": "t.nctaid",
           "%laneid": "(t.tid % 32)", "WARP_SZ": "32u"}
# By operation, of sources x of the instruction's type, u as u32, and their bits b; t is the type.
PURE = {"and": "{t}({x[0]} & {x[1]})", "or": "{t}({x[0]} | {x[1]})", "xor": "{t}({x[0]} ^ {x[1]})",
        "not": "{t}({x[0]} ^ {t}(-1))", "shl": "shift_left({x[0]}, {u[1]})", "shr": "shift_right({x[0]}, {u[1]})",
        "selp": "{u[2]} ? {b[0]} : {b[1]}", "min": "least({x[0]}, {x[1]}, false)", "max": "least({x[0]}, {x[1]}, true)",
        "rem": "divide({x[0]}, {x[1]}, true)", "div": "divide({x[0]}, {x[1]}, false)", "add": "{t}({b[0]} + {b[1]})",
        "sub": "{t}({b[0]} - {b[1]})", "bfe": "bit_field({x[0]}, {u[1]}, {u[2]})", "popc": "std::popcount({x[0]})",
        "clz": "std::countl_zero({x[0]})", "bfi": "inserted({x[0]}, {x[1]}, {u[2]}, {u[3]})"}
SIGN = {"abs": "{t}({x[0]} < 0 ? 0 - {x[0]} : {x[0]})", "neg": "{t}(0 - {x[0]})"}
FLOAT_SIGN = {"abs": "{b[0]} & ~({r}(1) << {top})", "neg": "{b[0]} ^ ({r}(1) << {top})",
              "copysign": "({b[1]} & ~({r}(1) << {top})) | ({b[0]} & ({r}(1) << {top}))"}
EXACT = {"add": "{} + {}", "sub": "{} - {}", "mul": "{} * {}", "div": "{} / {}", "fma": "std::fma({}, {}, {})",
         "sqrt": "std::sqrt({})", "rcp": "1 / {}"}
APPROXIMATE = {"ex2": "std::exp2({})", "lg2": "std::log2({})", "rcp": "1 / {}", "rsqrt": "1 / std::sqrt({})",
               "sqrt": "std::sqrt({})", "sin": "std::sin({})", "cos": "std::cos({})", "tanh": "std::tanh({})",
               "div": "{} / {}"}
COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
           "lo": "<", "ls": "<=", "hi": ">", "hs": ">="}
UNORDERED = {"ltu": ">=", "leu": ">", "gtu": "<=", "geu": "<", "equ": "!=", "neu": "=="}  # what is negated
ATOMIC = {"add": "{t}(old + {b})", "min": "least(old, {b}, false)", "max": "least(old, {b}, true)", "exch": "{b}",
          "and": "{t}(old & {b})", "or": "{t}(old | {b})", "xor": "{t}(old ^ {b})", "cas": "old == {b} ? {c} : old"}
PARAMETER = re.compile(r"\.param\s+(?:\.align\s+(\d+)\s+)?\.\w(\d+)\s+(?:\.ptr(?: \.\w+)?\s+\.align\s+\d+\s+)?(\w+)"
                       r"(?:\[(\d+)\])?")
SHARED = re.compile(r"\.shared\s+\.align\s+(\d+)\s+\.\w(\d+)\s+(\w+)(?:\[(\d+)\])?;")
IGNORED = re.compile(r'\.(pragma "[\w ]+";|maxntid.*|version.*|target.*|address_size.*)')
# fmt: on


class UnknownPtxError(Exception):
    """A line that this translator does not know."""


def need(condition: object) -> None:
    if not condition:
        raise UnknownPtxError


def raw(kind: str) -> str:
    """The type of what moves bits, and knows no numbers."""
    return "b" + kind[1:] if kind[0] == "f" else kind


class Symbols(dict[str, str]):
    """Parameters and shared variables by name, the latter one behind the other."""

    shared_bytes = 0

    def place(self, line: str) -> None:
        found = SHARED.fullmatch(line)
        need(found)
        begin = -(-self.shared_bytes // int(found[1])) * int(found[1])
        self[found[3]] = f"(kFirst + {begin})"
        self.shared_bytes = begin + int(found[2]) // 8 * int(found[4] or 1)

    def value(self, text: str) -> str:
        if text in SPECIAL or text in self:
            return SPECIAL.get(text) or self[text]
        if re.fullmatch(r"%[a-z]+\d+", text):
            return text[1:]
        if re.fullmatch(r"%n?(tid|ctaid)\.[yz]", text):
            return "1u" if text[1] == "n" else "0u"
        if re.fullmatch(r"0[fFdD]([0-9a-fA-F]{8}){1,2}", text):
            return f"UINT{4 * len(text) - 8}_C(0x{text[2:]})"
        return f"UINT64_C({int(text, 0) % 2**64:#x})"

    def get(self, kind: str, text: str) -> str:
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
        special = getattr(self, f"_{op}", None)
        if special is not None:
            return special(words, a)
        kind = words[-1]
        is_float = kind in ("f32", "f64")
        if is_float and (op in EXACT or op in APPROXIMATE):
            return self.floating(op, words, a)
        if op in ("mul", "mad"):
            return self.product(op, words, a)
        need(words == [kind])
        table = PURE | (FLOAT_SIGN if is_float else SIGN)
        sources = {"x": [self.get(kind, one) for one in a[1:]], "u": [self.get("u32", one) for one in a[1:]]}
        sources["b"] = [
            self.get(raw(kind) if is_float else "u" + kind[1:] if kind[0] == "s" else kind, one) for one in a[1:]
        ]
        top = int(kind[1:]) - 1 if is_float else 0
        return self.put(a[0], table[op].format(t=TYPES[kind], r=TYPES[raw(kind)], top=top, **sources))

    def floating(self, op: str, words: list[str], a: list[str]) -> str:
        flush = "flushed" if "ftz" in words else ""
        modes = [word for word in words[:-1] if word != "ftz"]
        x = [f"{flush}({self.get(words[-1], one)})" for one in a[1:]]
        approximate = modes in (["approx"], ["full"])
        need(approximate or modes == ["rn"])  # an addition without may be contracted
        value = (APPROXIMATE if approximate else EXACT)[op].format(*x)
        noted = "machine.last.approximates = true; " if approximate else ""
        return noted + self.put(a[0], f"{flush}({TYPES[words[-1]]}({value}))")

    def product(self, op: str, words: list[str], a: list[str]) -> str:
        part, kind = words
        width = int(kind[1:]) * (2 if part == "wide" else 1)
        result, wide = TYPES[f"u{width}"], "int128" if kind[0] == "s" else "uint128"
        product = f"({wide}({self.get(kind, a[1])}) * {self.get(kind, a[2])})"
        shift = {"lo": "", "hi": f" >> {width}", "wide": ""}[part]
        more = f" + {self.get(f'u{width}', a[3])}" if op == "mad" else ""
        return self.put(a[0], f"{result}({result}({product}{shift}){more})")

    def _mov(self, words: list[str], a: list[str]) -> str:
        kind = words[0] if words[0] == "pred" else "b" + words[0][1:]
        parts = [one.strip() for text in a if text[0] == "{" for one in text.strip("{}").split(",")]
        if not parts:
            return self.put(a[0], self.get(kind, a[1]))
        width = int(kind[1:]) // len(parts)
        if a[0][0] == "{":
            whole = self.get(kind, a[1])
            return " ".join(self.put(one, f"std::uint{width}_t({whole} >> {i * width})") for i, one in enumerate(parts))
        halves = (f"{TYPES[kind]}({self.get(f'b{width}', one)}) << {i * width}" for i, one in enumerate(parts))
        return self.put(a[0], " | ".join(halves))

    def _cvta(self, words: list[str], a: list[str]) -> str:
        window = {"global": "", "param": "", "shared": "kShared | "}[words[-2]]
        need(words[0] != "to" or not window)
        return self.put(a[0], f"{window}std::uint64_t({self.value(a[1])})")

    def _ld(self, words: list[str], a: list[str], loads: bool = True) -> str:
        *modes, kind = words
        space = modes.pop(0) if modes and modes[0] in ("param", "global", "shared") else ""
        cached = loads and modes[:1] == ["nc"]
        registers, where = a if loads else a[::-1]
        names = [one.strip() for one in registers.strip("{}").split(",")]
        need(modes[cached:] == ([f"v{len(names)}"] if len(names) > 1 else []))
        c, at = TYPES[raw(kind)], self.address(where, space)
        if not loads:
            values = ", ".join(self.get(raw(kind), one) for one in names)
            return f"const {c} v[] = {{{values}}}; t.store({at}, v, sizeof v);"
        puts = " ".join(self.put(one, f"v[{i}]") for i, one in enumerate(names))
        return f"{c} v[{len(names)}]; t.load({at}, v, sizeof v, {str(cached).lower()}); {puts}"

    def _st(self, words: list[str], a: list[str]) -> str:
        return self._ld(words, a, loads=False)

    def _setp(self, words: list[str], a: list[str]) -> str:
        compare, kind = words
        x, y = (self.get(kind, one) for one in a[1:])
        if compare in ("num", "nan"):
            return self.put(a[0], f"{'!' if compare == 'num' else ''}(std::isnan({x}) || std::isnan({y}))")
        if compare in UNORDERED:
            return self.put(a[0], f"!({x} {UNORDERED[compare]} {y})")
        ordered = f" && {x} == {x} && {y} == {y}" if kind[0] == "f" and compare == "ne" else ""
        return self.put(a[0], f"{x} {COMPARE[compare]} {y}{ordered}")

    def _cvt(self, words: list[str], a: list[str]) -> str:
        *modes, to, source = words
        if source[0] == "f" and to[0] != "f":
            need(len(modes) == 1 and re.fullmatch(r"r[znmp]i", modes[0]))
            return self.put(a[0], f"to_integer<{TYPES[to]}>({self.get(source, a[1])}, '{modes[0][1]}')")
        widens = (source, to) in (("f16", "f32"), ("f16", "f64"), ("f32", "f64"))
        need(modes == (["rn"] if to[0] == "f" and not widens else []))
        x = f"of_half({self.value(a[1])})" if source == "f16" else self.get(source, a[1])
        return self.put(a[0], f"half_of({x})" if to == "f16" else f"static_cast<{TYPES[to]}>({x})")

    def _bra(self, words: list[str], a: list[str]) -> str:
        need(words in ([], ["uni"]))
        return f"goto {a[0].replace('$', 'L')};"

    def _ret(self, words: list[str], a: list[str]) -> str:
        return "t.state = Thread::ended; return;"

    def _bar(self, words: list[str], a: list[str]) -> str:
        need((words, a) in ((["sync"], ["0"]), (["warp", "sync"], a)))
        return "t.state = Thread::at_barrier; WAIT;" if words == ["sync"] else self.exchange(a[0], "0")

    def exchange(self, mask: str, value: str) -> str:
        return f"t.exchange({self.get('u32', mask)}, {value}); WAIT;"

    def _shfl(self, words: list[str], a: list[str]) -> str:
        to, _, in_range = a[0].partition("|")
        mode = {"up": "u", "down": "d", "bfly": "b", "idx": "i"}[words[1]]
        x = [self.get("u32", one) for one in a[1:4]]
        keep = self.put(in_range, "is") if in_range else ""
        shuffled = self.put(to, f"t.shuffle('{mode}', {x[1]}, {x[2]}, is)")
        return f"{self.exchange(a[4], x[0])} bool is = false; {shuffled} {keep}"

    def _vote(self, words: list[str], a: list[str]) -> str:
        result = {"ballot": "t.ballot()", "any": "t.ballot() != 0", "all": "t.ballot() == t.mask"}[words[1]]
        return f"{self.exchange(a[2], self.value(a[1]))} {self.put(a[0], result)}"

    def _atom(self, words: list[str], a: list[str]) -> str:
        space, op, kind = [word for word in words if word not in ("relaxed", "cta", "gpu", "sys")]
        x = [self.get(kind, one) for one in a[2:]]
        following = ATOMIC[op].format(t=TYPES[kind], b=x[0], c=x[-1])
        at = self.address(a[1], {"global": "", "shared": "shared"}[space])
        call = f"t.atomic<{TYPES[kind]}>({at}, [&]({TYPES[kind]} old) {{ return {following}; }})"
        return self.put(a[0], call) or f"{call};"

    def _red(self, words: list[str], a: list[str]) -> str:
        return self._atom(words, ["_", *a])


def kernel(name: str, declared: str, directives: str, text: str, symbols: Symbols) -> str:
    """C++ of one kernel, and its entry of the table."""
    parameters, lines, kinds = [], [], {}
    for i, one in enumerate(filter(None, (part.strip() for part in declared.split(",\n")))):
        found = PARAMETER.fullmatch(one)
        need(found)
        symbols[found[3]] = f"parameter_address({i})"
        parameters.append(f"{{{int(found[2]) // 8 * int(found[4] or 1)}, {found[1] or int(found[2]) // 8}}}")
    blocks: dict[str, set[int]] = {}  # the basic blocks that a register occurs in
    block = instructions = doubles = waits = 0
    for line in filter(None, (one.strip() for one in text.split("\n"))):
        registers = re.fullmatch(r"\.reg\s+\.(\w+)\s+%([a-z]+)<(\d+)>;", line)
        found = re.fullmatch(r"(?:@(!?)%(p\d+)\s+)?([a-z][\w.:]*)\s*(.*);", line)
        ends = re.fullmatch(r"\$\w+:", line) or (found and re.match(r"(bra|ret)\b", found[3]))
        try:
            if registers:
                kind = TYPES[raw(registers[1]) if registers[1] != "pred" else "pred"]
                kinds |= {f"{registers[2]}{i}": kind for i in range(int(registers[3]))}
            elif line.startswith(".shared"):
                symbols.place(line)
            elif found:
                code = symbols.statement(found[3], found[4])
                instructions += 1
                doubles += ".f64" in found[3] and not found[3].startswith(("ld", "st", "mov", "selp"))
                here = {block, block + ("WAIT;" in code)}  # it waits in the middle
                for register in re.findall(r"%([a-z]+\d+)", line):
                    blocks.setdefault(register, set()).update(here)
                block = max(here)
                if "WAIT;" in code:
                    waits += 1
                    code = code.replace("WAIT;", f"t.resume = {waits}; goto wait; R{waits}:;")
                line = f"if ({found[1]}{found[2]}) {{ {code} }}" if found[2] else f"{{ {code} }}"
            else:
                need(ends or IGNORED.fullmatch(line))
        except (UnknownPtxError, LookupError, ValueError, AttributeError) as error:
            raise UnknownPtxError(f"{name}: {line}") from error
        if ends:
            lines.append(f"t.count({instructions}, {doubles});")
            block, instructions, doubles = block + 1, 0, 0
        if ends or found:
            lines.append(line if found else line.replace("$", "L") + ";")
    used = {register: kinds[register] for register in blocks if register in kinds}
    kept = [register for register in used if len(blocks[register]) > 1 and waits]

    def each(template: str, registers: object) -> str:
        return " ".join(template.format(r=register, t=used[register]) for register in registers)

    cases = " ".join(f"case {i}: goto R{i};" for i in range(1, waits + 1))
    most = re.search(r"\.maxntid (\d+)", directives)
    exchanges = "t.exchange" in "".join(lines)
    return f"""namespace ptx::{name} {{
struct State {{ {each("{t} {r};", kept)} }};
static void run(Thread& t) {{
{each("{t} {r} = 0;", used)}
auto& s = *static_cast<State*>(t.state_memory);
if (t.resume != 0) {{ {each("{r} = s.{r};", kept)} }}
switch (t.resume) {{ {cases} }}
{chr(10).join(lines)}
wait:; {each("s.{r} = {r};", kept)}
}}
static const bool known = add({{"{name}", run, sizeof(State), {symbols.shared_bytes}, {most[1] if most else 1024},
                              {str(exchanges).lower()}, {{{", ".join(parameters)}}}}});
}}
"""


def translate(text: str) -> dict[str, str]:
    """By name, C++ of every kernel in a PTX file."""
    text = re.sub(r"//[^\n]*", "", text)
    text = re.sub(r"\{ \.reg \.b32 tmp; mov\.b64 \{tmp, (%r\d+)\}, (%rd\d+); \}", r"mov.b64 {_, \1}, \2;", text)
    text = re.sub(r"\{ \.reg \.b32 tmp; mov\.b64 \{(%r\d+), tmp\}, (%rd\d+); \}", r"mov.b64 {\1, _}, \2;", text)
    pattern = r"\.entry\s+(\w+)\(\s*(.*?)\)\s*((?:\.\w+[^{]*)?)\{(.*?)\n\}"
    outside = Symbols()
    for line in filter(None, (one.strip() for one in re.sub(pattern, "", text, flags=re.DOTALL).split("\n"))):
        if line.startswith(".shared"):
            outside.place(line)
        elif not IGNORED.fullmatch(line):
            raise UnknownPtxError(line)
    result = {}
    for found in re.findall(pattern, text, re.DOTALL):
        symbols = Symbols(outside)
        symbols.shared_bytes = outside.shared_bytes
        result[found[0]] = kernel(*found, symbols)
    return result

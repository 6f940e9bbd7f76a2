"""anchor_ext.compat.mmdet.register in the whole of mmdet. What it registers stays, so each test has its own process."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.peers

# What `import mmdet.models` needs, and tests/peers.txt leaves out; nothing of it is called here.
STAND_INS = """
import importlib.abc, importlib.machinery, sys, types

class StandIn(types.ModuleType):
    map, zip = map, zip  # of six.moves

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})

class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    names = {"mmcv._ext", "matplotlib", "pycocotools", "scipy", "shapely", "six", "terminaltables", "tqdm"}

    def find_spec(self, name, path=None, target=None):
        if self.names & {name, name.partition(".")[0]}:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        return StandIn(spec.name)

    def exec_module(self, module):
        pass

sys.meta_path.append(Finder())
from anchor_ext.compat import mmdet as compat
"""
HEADS = """
from mmdet.registry import MODELS

def generator_of(head):
    return MODELS.build(dict(type=head, num_classes=2, in_channels=4)).prior_generator

POINTS = ["FCOSHead", "YOLOXHead", "AutoAssignHead", "NASFCOSHead", "FoveaHead", "CenterNetUpdateHead", "VFNetHead"]
"""


def run(script: str, tmp_path) -> None:
    """Runs a script that asserts, with mmdet importable and `compat` there."""
    whole = STAND_INS + script
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", whole], cwd=tmp_path, capture_output=True, text=True)
    if done.returncode and "ModuleNotFoundError" in done.stderr:
        pytest.skip(f"mmdet cannot be imported; see tests/peers.txt: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("first", ["", "import mmdet.models, mmdet.models.layers.msdeformattn_pixel_decoder"])
def test_every_head_uses_the_drop_ins(first, tmp_path):
    """Whether mmdet has been imported before or is by register()."""
    script = f"""{first}
report = compat.register()
{HEADS}
from mmdet.models.dense_heads import condinst_head, reppoints_head
from mmdet.models.layers import msdeformattn_pixel_decoder
from mmdet.models.task_modules import MlvlPointGenerator, AnchorGenerator
for head in POINTS:
    assert type(generator_of(head)) is compat.MlvlPointGenerator, head
assert type(generator_of("RetinaHead")) is compat.AnchorGenerator
for module in (condinst_head, reppoints_head, msdeformattn_pixel_decoder):
    assert module.MlvlPointGenerator is compat.MlvlPointGenerator
    assert f"{{module.__name__}}.MlvlPointGenerator" in report["replaced"]
assert MlvlPointGenerator is compat.MlvlPointGenerator and AnchorGenerator is compat.AnchorGenerator
assert report["registry"] == sorted(set(compat.__all__) - {{"register", "unregister"}}), report
assert report["kept"] == [], report
assert compat.register() == report
"""
    run(script, tmp_path)


def test_what_is_not_reached_is_reported(tmp_path):
    script = f"""
{HEADS}
from mmdet.models.task_modules.prior_generators.point_generator import MlvlPointGenerator as Stock
import pickle, types
class Heir(Stock): pass
other = sys.modules["other"] = types.ModuleType("other")
other.Points = Stock
stock = Stock([8])
report = compat.register()
assert report["kept"] == ["__main__.Stock", "other.Points", "__main__.Heir"], report
assert other.Points is Stock and Heir.__base__ is Stock
assert type(pickle.loads(pickle.dumps(stock))) is Stock  # mmdet's own module has its class still
assert compat.register() == report
"""
    run(script, tmp_path)


def test_unregister(tmp_path):
    script = f"""
{HEADS}
import mmdet.models
from mmdet.registry import TASK_UTILS
def now():
    names = sorted(set(compat.__all__) - {{"register", "unregister"}})
    held = [
        (module, name, id(value))
        for module, names_of in ((m, vars(sys.modules[m])) for m in sorted(sys.modules) if m.startswith("mmdet"))
        for name, value in names_of.items() if name in names
    ]
    return held, [id(TASK_UTILS.get(name)) for name in names]
before = now()
compat.register()
assert now() != before
compat.unregister()
assert now() == before
compat.unregister()
assert now() == before
assert type(generator_of("FCOSHead")).__module__.startswith("mmdet.")
"""
    run(script, tmp_path)

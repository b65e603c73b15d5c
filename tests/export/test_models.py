"""Models: SHI-Labs' names, shapes and sizes; the user's own file; every message a user may meet on the way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from edge.export.models import ModelSpec, load_pretrained, registry, resolve
from edge.export.models.cct import CCT, sine_embedding
from edge.export.quantize import quantized_layers, ternarize
from edge.runtime.errors import BadFile, BadInput


def official_names(layers: int, convolutions: int) -> set[str]:
    """The keys of SHI-Labs' checkpoints."""
    names = {f"tokenizer.conv_layers.{i}.0.weight" for i in range(convolutions)}
    names |= {"classifier.positional_emb"}
    names |= {f"classifier.{part}.{kind}" for part in ("attention_pool", "norm", "fc") for kind in ("weight", "bias")}
    for i in range(layers):
        block = f"classifier.blocks.{i}"
        names |= {f"{block}.self_attn.qkv.weight"}
        parts = ("pre_norm", "self_attn.proj", "linear1", "norm1", "linear2")
        names |= {f"{block}.{part}.{kind}" for part in parts for kind in ("weight", "bias")}
    return names


def test_keys_and_shapes_of_the_official_cct_7_3x1_32() -> None:
    state = ModelSpec("cct_7_3x1_32").build().state_dict()
    assert set(state) == official_names(7, 1)
    shapes = {
        "tokenizer.conv_layers.0.0.weight": [256, 3, 3, 3],
        "classifier.positional_emb": [1, 256, 256],
        "classifier.attention_pool.weight": [1, 256],
        "classifier.blocks.0.pre_norm.weight": [256],
        "classifier.blocks.6.self_attn.qkv.weight": [768, 256],
        "classifier.blocks.6.self_attn.proj.weight": [256, 256],
        "classifier.blocks.6.linear1.weight": [512, 256],
        "classifier.blocks.6.linear2.weight": [256, 512],
        "classifier.fc.weight": [10, 256],
    }
    assert {k: list(state[k].shape) for k in shapes} == shapes


@pytest.mark.parametrize(
    ("name", "layers", "convolutions", "millions"),
    [
        ("cct_2_3x2", 2, 2, 0.28),
        ("cct_4_3x2", 4, 2, 0.48),
        ("cct_6_3x1", 6, 1, 3.23),
        ("cct_6_3x2", 6, 2, 3.33),
        ("cct_7_3x1", 7, 1, 3.76),
        ("cct_7_3x2", 7, 2, 3.85),
        ("cct_7_7x2", 7, 2, 4.57),
        ("cct_14_7x2", 14, 2, 22.37),
    ],
)
def test_variants_have_the_published_sizes(name: str, layers: int, convolutions: int, millions: float) -> None:
    with torch.device("meta"):
        model = ModelSpec(name).build()
    assert set(model.state_dict()) == official_names(layers, convolutions)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == millions


@pytest.mark.parametrize(
    ("name", "shape", "classes", "learned"),
    [
        ("cct_2_3x2_32", (3, 32, 32), 10, True),
        ("cct_7_3x1_32_sine", (3, 32, 32), 10, False),
        ("cct_7_3x1_32_sine_c100", (3, 32, 32), 100, False),
        ("cct_7_7x2_224_sine", (3, 224, 224), 102, False),
        ("cct_14_7x2_384", (3, 384, 384), 1000, True),
        ("cct_14_7x2_384_fl", (3, 384, 384), 102, True),
    ],
)
def test_official_names_are_known(name: str, shape: tuple[int, ...], classes: int, learned: bool) -> None:
    info = resolve(name)
    assert (info.input_shape, info.num_classes, info.keep) == (shape, classes, ("*attention_pool*",))
    assert info.kwargs["positional_embedding"] == ("learnable" if learned else "sine")


def test_defaults_of_a_variant_reach_the_model() -> None:
    model = ModelSpec("cct_7_3x1_32_sine_c100").build()
    assert isinstance(model, CCT) and not model.training
    assert model.classifier.fc.out_features == 100
    assert model.classifier.positional_emb is not None and not model.classifier.positional_emb.requires_grad
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 100)


def test_sine_positions() -> None:
    table = sine_embedding(5, 6)
    assert table.shape == (1, 5, 6) and table.dtype == torch.float32
    assert table[0, 0].tolist() == [0, 1, 0, 1, 0, 1]
    assert table[0, 3, 2] == pytest.approx(torch.tensor(3 / 10000 ** (2 / 6)).sin().item(), abs=1e-6)


def test_every_model_builds_runs_and_quantizes() -> None:
    for name, info in registry().items():
        if name == "cct_14_7x2":
            continue  # 22 million parameters: its size is tested above
        shape = (info.input_shape[0], *(min(side, 32) for side in info.input_shape[1:]))
        spec = ModelSpec(name, {"num_classes": 7, "input_shape": shape})
        model = spec.build()
        x = torch.randn(2, *shape)
        ternarize(model, spec.keep)
        with torch.no_grad():
            assert model(x).shape == (2, 7), name
        kept = [n for n, m in model.named_modules() if type(m) in (nn.Linear, nn.Conv2d)]
        assert kept == (["classifier.attention_pool"] if info.family == "cct" else []), name
        assert quantized_layers(model)


def test_cct_takes_sizes_that_are_not_square() -> None:
    model = ModelSpec("cct_2_3x2", {"input_shape": (1, 41, 32), "num_classes": 10}).build()
    assert model.grid == (11, 8)
    assert model(torch.zeros(1, 1, 41, 32)).shape == (1, 10)
    with pytest.raises(BadInput, match="takes \\[channels, height, width\\]"):
        ModelSpec("cct_2_3x2", {"input_shape": (3, 0, 4)}).build()
    with pytest.raises(BadInput, match="expected learnable, sine or none"):
        ModelSpec("cct_2_3x2", {"positional_embedding": "rotary"}).build()


def test_shapes_to_load_data_with() -> None:
    assert resolve("cct_2_3x2").shape_for("digits") is None
    assert resolve("cct_2_3x2").shape_for("photos.zip") == (None, 32, 32)
    assert resolve("cct_2_3x2").shape_for("photos.zip", (24, 48)) == (None, 24, 48)
    assert resolve("cct_7_7x2").shape_for("digits") == (None, 224, 224)
    assert resolve("ds_cnn").shape_for("recordings/") is None


def test_specs_survive_json() -> None:
    spec = ModelSpec("cct_2_3x2", {"input_shape": (1, 16, 16), "num_classes": 3})
    assert ModelSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert spec.name == "cct_2_3x2" and ModelSpec("a/net.py:build").name == "net"


# --- checkpoints ------------------------------------------------------------------------------------------------------


def test_official_checkpoint_loads_unchanged(tmp_path: Path) -> None:
    torch.manual_seed(1)
    source = ModelSpec("cct_2_3x2_32").build()
    torch.save(source.state_dict(), tmp_path / "cct.pth")
    model = ModelSpec("cct_2_3x2_32").build()
    assert load_pretrained(model, tmp_path / "cct.pth") == []
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model(x), source(x))


def test_positions_and_head_are_adapted_as_shi_labs_do(tmp_path: Path) -> None:
    torch.manual_seed(1)
    source = ModelSpec("cct_2_3x2_32").build()
    save_file(dict(source.state_dict()), tmp_path / "cct.safetensors")
    model = ModelSpec("cct_2_3x2", {"input_shape": (3, 48, 64), "num_classes": 4}).build()
    head = model.classifier.fc.weight.clone()  # type: ignore[union-attr,operator]
    notes = load_pretrained(model, tmp_path / "cct.safetensors")
    assert notes[0] == "positions resized from 8 x 8 to 12 x 16"
    assert notes[1] == "classifier.fc.weight is new: 10 classes became 4"
    assert torch.equal(model.classifier.fc.weight, head)  # type: ignore[union-attr,arg-type]
    old = source.classifier.positional_emb.reshape(8, 8, -1)  # type: ignore[union-attr,operator]
    new = model.classifier.positional_emb.reshape(12, 16, -1)  # type: ignore[union-attr,operator]
    torch.testing.assert_close(new.mean((0, 1)), old.mean((0, 1)), atol=0.05, rtol=0)
    sine = ModelSpec("cct_2_3x2_32_sine").build()
    before = sine.classifier.positional_emb.clone()  # type: ignore[union-attr,operator]
    load_pretrained(sine, tmp_path / "cct.safetensors")
    assert torch.equal(sine.classifier.positional_emb, before)  # type: ignore[union-attr,arg-type]


def test_a_checkpoint_of_another_variant_lists_its_keys(tmp_path: Path) -> None:
    save_file(dict(ModelSpec("cct_4_3x2").build().state_dict()), tmp_path / "c.safetensors")
    with pytest.raises(BadInput, match=r"22 unknown \(classifier\.blocks\.2\.linear1\.bias, .*, \.\.\.\)"):
        load_pretrained(ModelSpec("cct_2_3x2").build(), tmp_path / "c.safetensors")
    save_file(dict(ModelSpec("cct_6_3x2").build().state_dict()), tmp_path / "c.safetensors")
    with pytest.raises(BadInput, match="positions \\[1, 64, 256\\] cannot be resized|does not fit"):
        load_pretrained(ModelSpec("cct_2_3x2").build(), tmp_path / "c.safetensors")


# --- the user's own ---------------------------------------------------------------------------------------------------

FACTORY = """
from torch import nn
from helper import WIDTH

def build(num_classes, in_channels=1, img_size=8):
    inputs = in_channels * img_size * img_size
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, WIDTH), nn.Linear(WIDTH, num_classes))

class Net(nn.Module):
    def __init__(self, input_shape, width=4):
        super().__init__()
        self.fc = nn.Linear(input_shape[0], width)

def plain():
    return nn.Linear(2, 2)

def wrong(num_classes):
    return num_classes

def fails(num_classes):
    raise ValueError("no such width\\nat all")

def needs(depth):
    return nn.Linear(depth, 2)

value = 3
"""


@pytest.fixture
def user_file(tmp_path: Path) -> str:
    (tmp_path / "helper.py").write_text("WIDTH = 5\n")
    (tmp_path / "my_model.py").write_text(FACTORY)
    return str(tmp_path / "my_model.py")


def test_factories_get_what_they_name(user_file: str) -> None:
    offered = {"num_classes": 3, "input_shape": (2, 6, 6)}
    model = ModelSpec(f"{user_file}:build", offered).build()
    assert model(torch.zeros(1, 2, 6, 6)).shape == (1, 3)
    assert ModelSpec(f"{user_file}:Net", {**offered, "width": 9}).build().fc.out_features == 9  # type: ignore[union-attr]
    assert isinstance(ModelSpec(f"{user_file}:plain", offered).build(), nn.Linear)
    assert ModelSpec(f"{user_file}:build", {**offered, "in_channels": 2}).build() is not None


def test_an_edited_file_is_run_again(user_file: str) -> None:
    assert ModelSpec(f"{user_file}:plain").build().out_features == 2
    Path(user_file).write_text(FACTORY.replace("nn.Linear(2, 2)", "nn.Linear(2, 11)"))
    assert ModelSpec(f"{user_file}:plain").build().out_features == 11


@pytest.mark.parametrize(
    ("factory", "kwargs", "error", "message"),
    [
        ("nothing", {}, BadInput, "has no function 'nothing'; it has build, Net, plain, wrong, fails, needs"),
        ("value", {}, BadInput, "has no function 'value'"),
        ("wrong", {"num_classes": 3}, BadInput, r"returned int: expected a torch\.nn\.Module"),
        (
            "fails",
            {"num_classes": 3},
            BadInput,
            r"fails\(num_classes=3\) failed at \S+\.py:\d+: ValueError: no such width \(--debug",
        ),
        (
            "needs",
            {"num_classes": 3},
            BadInput,
            "needs 'depth', but edge supplies num_classes and input_shape: give 'depth' a default",
        ),
        ("plain", {"width": 3}, BadInput, "plain takes no 'width'; it takes nothing"),
    ],
)
def test_factories_that_do_not_work(
    user_file: str, factory: str, kwargs: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        ModelSpec(f"{user_file}:{factory}", kwargs).build()
    assert "\n" not in str(caught.value)


def test_files_that_do_not_work(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="no such file"):
        resolve(str(tmp_path / "absent.py:build"))
    (tmp_path / "broken.py").write_text("def build(:\n")
    with pytest.raises(BadFile, match="cannot be run: SyntaxError"):
        resolve(str(tmp_path / "broken.py:build"))
    (tmp_path / "import.py").write_text("import not_installed_anywhere\n")
    told = r"ModuleNotFoundError: No module named 'not_installed_anywhere' at \S*import\.py:1 \(--debug"
    with pytest.raises(BadFile, match=told):
        resolve(str(tmp_path / "import.py:build"))
    with pytest.raises(BadInput, match=r"say which function makes the model, as in model\.py:build"):
        resolve("model.py")


def test_misspelt_models_get_a_hint() -> None:
    with pytest.raises(BadInput, match=r"'cct_2_3x3': no such model\. Did you mean cct_2_3x2\? Known: cct_2_3x2, "):
        resolve("cct_2_3x3")
    with pytest.raises(BadInput, match="no such model"):
        resolve("cct_2_3x2_224")

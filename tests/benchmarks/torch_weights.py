"""Writes Kokoro's packaged 8-bit ONNX file as a model folder for torch: `python -m tests.benchmarks.torch_weights TO`.

It serves where the publisher's own weights are out of reach, such as to measure a GPU. The weights are those of the
ONNX file in floating point, so what is heard is as good as with that file, and a little worse than with the
publisher's. Needs `onnx` and the extra `callboard-tts[torch]`.
"""

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONFIG: dict[str, Any] = {
    "istftnet": {
        "upsample_kernel_sizes": [20, 12],
        "upsample_rates": [10, 6],
        "gen_istft_hop_size": 5,
        "gen_istft_n_fft": 20,
        "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5], [1, 3, 5]],
        "resblock_kernel_sizes": [3, 7, 11],
        "upsample_initial_channel": 512,
    },
    "dropout": 0.2,
    "hidden_dim": 512,
    "max_dur": 50,
    "n_layer": 3,
    "n_mels": 80,
    "n_token": 178,
    "style_dim": 128,
    "text_encoder_kernel_size": 5,
    "plbert": {
        "hidden_size": 768,
        "num_attention_heads": 12,
        "intermediate_size": 2048,
        "max_position_embeddings": 512,
        "num_hidden_layers": 12,
        "dropout": 0.1,
    },
}
"""The shape of Kokoro-82M, less its vocabulary."""
_UNUSED = re.compile(r"bert\.pooler\.|\.norm\.(weight|bias)$|position_ids")
"""What the ONNX file lacks, because it does nothing: the scales of the instance norms are one."""
_CONVOLUTIONS = ("ConvInteger", "Conv", "ConvTranspose")

Weights = dict[str, NDArray[np.float32]]


def main() -> None:
    """Writes the folder."""
    from callboard_contracts.config import SiteSection
    from callboard_kit.model_files import model_path

    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.torch_weights", description=__doc__)
    parser.add_argument("to", type=Path, help="the folder to write")
    parser.add_argument("--model", type=Path, default=model_path(SiteSection(), "kokoro-82m-int8.onnx"))
    arguments = parser.parse_args()
    write(arguments.model, arguments.to)


def write(onnx_file: Path, folder: Path) -> None:
    """Writes `config.json` and `kokoro.pth`."""
    import torch  # pyright: ignore[reportMissingImports] - not in the development environment
    from kokoro import KModel  # pyright: ignore[reportMissingImports] - the same
    from kokoro_onnx.config import DEFAULT_VOCAB

    folder.mkdir(parents=True, exist_ok=True)
    config = {**CONFIG, "vocab": DEFAULT_VOCAB}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    file = folder / "kokoro.pth"
    torch.save({}, file)
    model: Any = KModel(repo_id="local", config=config, model=str(file))
    found = dict(_weights(onnx_file))
    parts: dict[str, Any] = {}
    for part, module in model.named_children():
        state = parts[part] = module.state_dict()
        for name, value in state.items():
            full = f"{part}.{name}"
            if _UNUSED.search(full):
                continue
            state[name] = torch.from_numpy(found.pop(full).reshape(tuple(value.shape)).copy())
    if found:
        raise ValueError(f"left over: {', '.join(sorted(found))}")
    torch.save(parts, file)


def _weights(file: Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Each weight under its name in torch."""
    import onnx  # pyright: ignore[reportMissingImports] - not in the development environment
    from onnx import numpy_helper  # pyright: ignore[reportMissingImports] - the same

    graph: Any = onnx.load(str(file)).graph
    values: dict[str, Any] = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    users: dict[str, Any] = {}
    makers: dict[str, Any] = {}
    for node in graph.node:
        users.update(dict.fromkeys([name for name in node.input if name not in users], node))
        makers.update(dict.fromkeys(node.output, node))
    for name, value in values.items():
        if re.search(r"\.(bias|gamma|beta|alpha[12]\.\d|LayerNorm\.weight|\w+_layer_norm\.weight)$", name):
            yield _own(name), value
    seen: set[str] = set()
    for node in graph.node:
        if node.op_type == "DynamicQuantizeLSTM":
            yield from _lstm(_module(node.name), [values.get(name) for name in node.input])
        elif node.op_type == "DequantizeLinear" and node.input[0].endswith("_output_0_quantized"):
            table = makers[node.input[0]].input[0]
            scaled = (values[table].astype(np.float32) - values[node.input[2]]) * values[node.input[1]]
            yield _own(table.removesuffix("_quantized")), scaled
        elif node.op_type in (*_CONVOLUTIONS, "MatMulInteger", "MatMul") and node.input[1] in values:
            if "/istft/" in node.name or node.input[1] in seen:
                continue
            seen.add(node.input[1])
            weight = values[node.input[1]].astype(np.float32)
            if node.op_type.endswith("Integer"):
                weight = (weight - values[node.input[3]]) * values[_scale(node, users, makers)]
            name = _module(node.name)
            if node.op_type not in _CONVOLUTIONS:
                yield f"{name}.weight", weight.T
            elif re.search(r"(_proj|noise_convs\.\d)$", name):
                yield f"{name}.weight", weight
            else:
                norm = np.sqrt(np.sum(np.square(weight), axis=(1, 2), keepdims=True))
                yield f"{name}.weight_g", norm
                yield f"{name}.weight_v", np.where(norm > 0, weight, 1.0)


def _scale(node: Any, users: dict[str, Any], makers: dict[str, Any]) -> str:
    """The name of the scale of a whole-number layer's weights: one of two factors of what its output is scaled by."""
    value = node.output[0]
    while users[value].op_type != "Mul":
        value = users[value].output[0]
    (other,) = [name for name in users[value].input if name != value]
    return makers[other].input[1]


def _lstm(name: str, inputs: list[Any]) -> Iterator[tuple[str, NDArray[np.float32]]]:
    weights = (
        ("weight_ih", (inputs[1].astype(np.float32) - inputs[9][:, None, None]) * inputs[8][:, None, None]),
        ("weight_hh", (inputs[2].astype(np.float32) - inputs[11][:, None, None]) * inputs[10][:, None, None]),
    )
    for way, suffix in enumerate(("_l0", "_l0_reverse")):
        for kind, both in weights:
            yield f"{name}.{kind}{suffix}", _gates(both[way].T)
        for kind, bias in zip(("bias_ih", "bias_hh"), np.split(inputs[3][way], 2), strict=True):
            yield f"{name}.{kind}{suffix}", _gates(bias)


def _gates(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """From ONNX's order of the gates (in, out, forget, cell) to torch's (in, forget, cell, out)."""
    enter, leave, forget, cell = np.split(rows, 4)
    return np.concatenate([enter, forget, cell, leave])


def _own(name: str) -> str:
    return name.removeprefix("encoder.").removeprefix("decoder.")


def _module(path: str) -> str:
    """The module that a node was made from, by the node's path."""
    names = path.removesuffix("_quant").strip("/").split("/")[1:-1]
    if re.match(r"(F0|N)(\.|_)|shared", names[0]):
        names.insert(0, "predictor")
    # A member of a list names its list once more.
    whole = [
        name
        for name, after in zip(names, [*names[1:], ""], strict=True)
        if not re.match(rf"{re.escape(name)}\.", after)
    ]
    return ".".join(whole)


if __name__ == "__main__":
    main()

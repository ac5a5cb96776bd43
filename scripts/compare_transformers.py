#!/usr/bin/env python3
"""Compares fathom with Hugging Face's own model, row by row.

    scripts/compare_transformers.py --ckpt-path models/small --text FILE [--tokens 3303]

Hugging Face's model runs in float32 with eager attention; fathom runs `logits --numerics exact`.
Both get the same token ids. For rows spread over the text the two next-token distributions are
compared: KL divergence in nats, the largest difference of a log-probability, the most probable
token. Exit code 0 when every row is within --limit and has the same most probable token.

Needs Python 3.10 with torch, safetensors, tokenizers and transformers 5.17 or newer (which has
DeepseekV32). Neither downloads anything: the checkpoint is a folder. FP8 weights are widened into a
float32 copy of the checkpoint, in a folder that is removed afterwards (--work names where), four
times as large as the original: meant for small checkpoints and slices of large ones.

fathom and Hugging Face's model need not run on the same machine: --ids names a file of token ids,
and --logits what `fathom logits --ids FILE --rows ... --numerics exact` wrote for them.

`--self-test` checks the comparison itself and needs the standard library alone.
"""

import argparse
import array
import json
import math
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile

BLOCK = 128  # rows and columns of a weight that share a scale


class Problem(Exception):
    """What the user can mend; shown on one line."""


# --- the comparison: plain Python, in float64 ---------------------------------------------------


def log_softmax(logits):
    top = max(logits)
    log_sum = top + math.log(math.fsum(math.exp(x - top) for x in logits))
    return [x - log_sum for x in logits]


def compare_row(ours, theirs):
    """KL(theirs || ours) in nats, largest difference of log-probabilities, both arg-maxes."""
    if len(ours) != len(theirs):
        raise Problem(f"rows of {len(ours)} and {len(theirs)} logits")
    if not all(map(math.isfinite, ours)) or not all(map(math.isfinite, theirs)):
        raise Problem("a row has logits that are not finite")
    p, q = log_softmax(theirs), log_softmax(ours)
    # Rounding may leave a sum of two equal rows a little below zero.
    kl = max(0.0, math.fsum(math.exp(a) * (a - b) for a, b in zip(p, q)))
    apart = max(abs(a - b) for a, b in zip(p, q))
    return kl, apart, ours.index(max(ours)), theirs.index(max(theirs))


def summarise(positions, results, limit):
    """Lines to print, and whether all is well."""
    kls = [r[0] for r in results]
    worst = max(range(len(kls)), key=kls.__getitem__)
    different = [p for p, r in zip(positions, results) if r[2] != r[3]]
    lines = [
        f"rows            {len(results)}, positions {positions[0]} to {positions[-1]}",
        f"KL divergence   mean {math.fsum(kls) / len(kls):.2e}, largest {kls[worst]:.2e} nats "
        f"(position {positions[worst]})",
        f"log-probability largest difference {max(r[1] for r in results):.2e}",
        f"arg-max         equal in {len(results) - len(different)} of {len(results)} rows"
        + (f"; not at {', '.join(map(str, different[:10]))}" if different else ""),
    ]
    return lines, kls[worst] <= limit and not different


def read_safetensors(path):
    """Tensors of type F32 and I32 as (shape, array)."""
    data = pathlib.Path(path).read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__" or entry["dtype"] not in ("F32", "I32"):
            continue
        begin, end = entry["data_offsets"]
        values = array.array("f" if entry["dtype"] == "F32" else "i")
        values.frombytes(data[8 + length + begin : 8 + length + end])
        if sys.byteorder == "big":
            values.byteswap()
        tensors[name] = (entry["shape"], values)
    return tensors


def row_of(tensor, i):
    (_, width), values = tensor
    return list(values[i * width : (i + 1) * width])


def spread(tokens, rows):
    """`rows` different positions from the first to the last."""
    rows = min(rows, tokens)
    if rows == 1:
        return [tokens - 1]
    return [round(i * (tokens - 1) / (rows - 1)) for i in range(rows)]


# --- fathom -------------------------------------------------------------------------------------


def run_fathom(program, folder, ids, positions, work):
    ids_file, out = work / "ids.txt", work / "logits.safetensors"
    ids_file.write_text(" ".join(map(str, ids)))
    command = [program, "logits", "--ckpt-path", str(folder), "--ids", str(ids_file), "--rows",
               ",".join(map(str, positions)), "--numerics", "exact", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise Problem(f"{' '.join(command[:2])} ended with {done.returncode}: "
                      f"{done.stderr.strip()}")
    found, rows = read_logits(out)
    if found != positions:
        raise Problem("fathom's file has other rows than were asked for")
    return rows


def read_logits(path):
    """What `fathom logits` wrote: positions and their rows of logits."""
    tensors = read_safetensors(path)
    for name in ("rows", "logits"):
        if name not in tensors:
            raise Problem(f"{path}: no tensor {name} as `fathom logits` writes it")
    positions = list(tensors["rows"][1])
    return positions, [row_of(tensors["logits"], i) for i in range(len(positions))]


# --- Hugging Face -------------------------------------------------------------------------------


class Folder:
    """A checkpoint's tensors, wherever its shards have them."""

    def __init__(self, path):
        from safetensors import safe_open

        self.files, self.place = {}, {}
        for file in sorted(path.glob("*.safetensors")):
            if file.name.startswith("."):
                continue
            handle = self.files[file.name] = safe_open(str(file), framework="pt", device="cpu")
            for name in handle.keys():
                self.place[name] = file.name
        if not self.place:
            raise Problem(f"{path}: no .safetensors files")

    def get(self, name):
        return self.files[self.place[name]].get_tensor(name)

    def widened(self, name):
        """In float32, FP8 blocks times their scales."""
        import torch

        tensor, scale_name = self.get(name), f"{name}_scale_inv"
        if tensor.dtype != torch.float8_e4m3fn:
            return tensor.float() if tensor.is_floating_point() else tensor
        if scale_name not in self.place:
            raise Problem(f"{name} is FP8, and there is no {scale_name}")
        scale = self.get(scale_name).float()
        rows, columns = tensor.shape
        scale = scale.repeat_interleave(BLOCK, 0)[:rows].repeat_interleave(BLOCK, 1)[:, :columns]
        return tensor.float() * scale


def write_float32_copy(source, target):
    """What from_pretrained reads without quantisation: same names, float32, no MTP layers."""
    from safetensors.torch import save_file

    config = json.loads((source / "config.json").read_text())
    layers = config["num_hidden_layers"]
    config.pop("quantization_config", None)
    config["torch_dtype"] = "float32"
    config["num_nextn_predict_layers"] = 0
    (target / "config.json").write_text(json.dumps(config))
    folder = Folder(source)
    weight_map = {}
    for file in folder.files:
        tensors = {}
        for name, place in folder.place.items():
            parts = name.split(".")
            is_mtp = parts[:2] == ["model", "layers"] and int(parts[2]) >= layers
            if place != file or name.endswith("_scale_inv") or is_mtp:
                continue
            tensors[name] = folder.widened(name).contiguous()
            weight_map[name] = file
        if tensors:
            save_file(tensors, str(target / file), metadata={"format": "pt"})
    (target / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map}))


def run_transformers(source, ids, positions, device, work):
    import torch
    import transformers

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    copy = work / "float32"
    copy.mkdir()
    write_float32_copy(source, copy)
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        str(copy), dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    # A weight that was left at random would still give logits.
    for kind in ("missing_keys", "mismatched_keys"):
        if info.get(kind):
            raise Problem(f"transformers: {kind}: {', '.join(map(str, list(info[kind])[:5]))}")
    model = model.to(device).eval()
    print(f"transformers {transformers.__version__}, {type(model).__name__}, torch "
          f"{torch.__version__}, float32 on {device}")
    with torch.no_grad():
        output = model(input_ids=torch.tensor([ids], device=device), use_cache=False)
        logits = output.logits[0, positions].float().cpu()
    return logits.tolist()


def token_ids(folder, arguments):
    if arguments.ids:
        return [int(word) for word in pathlib.Path(arguments.ids).read_text().split()]
    from tokenizers import Tokenizer

    text = pathlib.Path(arguments.text).read_text(encoding="utf-8")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return tokenizer.encode(text, add_special_tokens=False).ids


def compare(arguments):
    folder = pathlib.Path(arguments.ckpt_path)
    ids = token_ids(folder, arguments)[: arguments.tokens]
    if len(ids) < 2:
        raise Problem(f"{len(ids)} tokens: at least 2 are needed")
    positions = spread(len(ids), arguments.rows)
    if arguments.logits:
        positions, ours = read_logits(arguments.logits)
        if max(positions) >= len(ids):
            raise Problem(f"{arguments.logits}: row {max(positions)} of a text of {len(ids)} tokens")
    work = pathlib.Path(tempfile.mkdtemp(prefix="compare-", dir=arguments.work))
    try:
        if not arguments.logits:
            ours = run_fathom(arguments.fathom, folder, ids, positions, work)
        theirs = run_transformers(folder, ids, positions, arguments.device, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(f"{len(ids):,} tokens")
    lines, well = summarise(positions, [compare_row(a, b) for a, b in zip(ours, theirs)],
                            arguments.limit)
    print("\n".join(lines))
    return 0 if well else 1


# --- the comparison against itself --------------------------------------------------------------


def self_test():
    def near(a, b):
        assert abs(a - b) <= 1e-12 * max(1, abs(b)), (a, b)

    # Closed form: p = (1/2, 1/2), q = (9/10, 1/10).
    kl, apart, ours, theirs = compare_row([math.log(9), 0.0], [3.0, 3.0])
    near(kl, 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1))
    near(apart, math.log(5))
    assert (ours, theirs) == (0, 0)
    # Logits are known up to a constant; large ones must not overflow.
    row = [0.3, -7.0, 2.5, 1000.0, 999.0]
    kl, apart, _, _ = compare_row([x + 500 for x in row], row)
    assert kl < 1e-12 and apart < 1e-9, (kl, apart)
    assert compare_row(row, row)[:2] == (0.0, 0.0)
    # KL is not symmetric: theirs is the distribution that is averaged over.
    assert compare_row([0, 3], [0, 1])[0] != compare_row([0, 1], [0, 3])[0]
    for bad in ([math.nan, 0.0], [math.inf, 0.0], [0.0]):
        try:
            compare_row(bad, [0.0, 0.0])
        except Problem:
            continue
        raise AssertionError(bad)
    # The verdict: a row beyond the limit, or another arg-max, fails.
    good, off = compare_row([0, 1], [0, 1]), compare_row([0, 1], [0, 1.1])
    other = compare_row([0, 1e-9], [1e-9, 0])
    assert summarise([0, 5], [good, good], 1e-9)[1]
    assert not summarise([0, 5], [good, off], 1e-9)[1]
    assert summarise([0, 5], [good, off], 1)[1]
    lines, well = summarise([0, 5], [good, other], 1)
    assert not well and "not at 5" in lines[3], lines
    assert spread(10, 4) == [0, 3, 6, 9] and spread(3, 100) == [0, 1, 2] and spread(9, 1) == [8]
    assert len(set(spread(3303, 207))) == 207
    # The file fathom writes.
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "x.safetensors"
        header = json.dumps({"rows": {"dtype": "I32", "shape": [2], "data_offsets": [0, 8]},
                             "logits": {"dtype": "F32", "shape": [2, 3],
                                        "data_offsets": [8, 32]}}).encode()
        path.write_bytes(struct.pack("<Q", len(header)) + header + struct.pack("<2i", 4, 7)
                         + struct.pack("<6f", 1, 2, 3, 0.5, -1, 9))
        tensors = read_safetensors(path)
        assert list(tensors["rows"][1]) == [4, 7]
        assert row_of(tensors["logits"], 1) == [0.5, -1, 9]
        assert read_logits(path) == ([4, 7], [[1, 2, 3], [0.5, -1, 9]])
    print("self-test passed")
    return 0


def main():
    root = pathlib.Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--ckpt-path", default=str(root / "models/small"))
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--text", help="text file")
    source.add_argument("--ids", help="file of token ids with blanks between them")
    parser.add_argument("--tokens", type=int, default=3303, help="no more of them than this")
    parser.add_argument("--rows", type=int, default=207, help="positions to compare")
    # Rounding alone gives about 1e-10 nats. Where it also decides between two nearly equal index
    # scores, one of the selected tokens is another, and a row may differ by some 1e-6.
    parser.add_argument("--limit", type=float, default=1e-5, help="KL divergence of a row, in nats")
    parser.add_argument("--device", default="cpu", help="where Hugging Face's model runs")
    parser.add_argument("--fathom", default=str(root / "build/bin/fathom"))
    parser.add_argument("--logits", help="a file that `fathom logits --numerics exact` wrote for "
                                         "these tokens, instead of running fathom")
    parser.add_argument("--work", help="folder for the float32 copy (default: the system's)")
    parser.add_argument("--self-test", action="store_true")
    arguments = parser.parse_args()
    if arguments.self_test:
        return self_test()
    if not arguments.text and not arguments.ids:
        parser.error("--text or --ids is needed")
    try:
        return compare(arguments)
    except (Problem, OSError) as problem:
        print(f"compare_transformers: {problem}", file=sys.stderr)
    except ImportError as problem:
        print(f"compare_transformers: {problem}: torch, safetensors, tokenizers and transformers "
              "5.17 are needed", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())

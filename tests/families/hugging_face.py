"""What a model computes according to Hugging Face alone, for comparison."""

import contextlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

#: The matrix that each family's attention writes through, and those that make its values.
WRITES = re.compile(
    r"\.(\d+)\.(?:[\w.]*\.)?(?:self_attn|self_attention|attn|attention|mixer|temporal_block)\."
    r"(?:attention\.)?(?:o_proj|out_proj|c_proj|dense|wo|Wo|output\.dense|output_linear)$"
)
VALUES = re.compile(r"(?:^|\.)(?:v_proj|value|query_key_value|c_attn|qkv_proj|Wqkv|kv_proj)$")


class Witness:
    """A Hugging Face model with eager attention, run on its own."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
        self.model.eval()
        self.config = self.model.config
        self.n_heads = getattr(self.config, "num_attention_heads", None) or self.config.num_heads
        named = dict(self.model.named_modules())
        matched = {name: found for name in named if (found := WRITES.search(name)) and "linear_attn" not in name}
        self.writes = {int(found[1]): named[name] for name, found in matched.items()}
        self.reads = {int(found[1]): _values_of(named, name) for name, found in matched.items()}

    def run(self, tokens: Tensor) -> Any:
        """One forward pass with attention."""
        with torch.no_grad():
            return self.model(tokens, output_attentions=True, use_cache=False, return_dict=True)

    def patterns(self, tokens: Tensor) -> dict[int, Tensor]:
        """Attention [batch, head, query, key] by layer, for the layers that have any."""
        shown = [pattern for pattern in self.run(tokens).attentions if pattern is not None]
        layers = sorted(self.writes) if len(self.writes) == len(shown) else range(len(shown))
        return dict(zip(layers, shown, strict=True))

    def losses(self, tokens: Tensor) -> Tensor:
        """The loss in nats of every token but the first, [batch, pos - 1]."""
        logits = self.run(tokens).logits[:, :-1].float()
        return cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none").view(len(tokens), -1)

    def prefix_matching(self, tokens: Tensor) -> dict[int, Tensor]:
        """Attention to the tokens after earlier copies, mean over queries that have one, [head] by layer."""
        pairs = [
            (row, query, key + 1)
            for row, ids in enumerate(tokens.tolist())
            for query in range(1, len(ids))
            for key in range(1, query)
            if ids[key] == ids[query]
        ]
        queries = len({(row, query) for row, query, _ in pairs})
        row, query, key = (torch.tensor(part) for part in zip(*pairs, strict=True))
        return {layer: pattern[row, :, query, key].sum(0) / queries for layer, pattern in self.patterns(tokens).items()}

    @contextlib.contextmanager
    def without(self, layer: int, head: int, tokens: Tensor) -> Iterator[None]:
        """Leave a head out: what it writes but for its value bias, which every head writes wherever it looks."""
        held = self.value_bias(layer, tokens)

        def hook(module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            changed = args[0].clone()
            flat, kept = changed.view(*tokens.shape, self.n_heads, -1), held.view(*tokens.shape, self.n_heads, -1)
            flat[:, :, head] = kept[:, :, head]
            return (changed, *args[1:])

        handle = self.writes[layer].register_forward_pre_hook(hook)
        try:
            yield
        finally:
            handle.remove()

    def value_bias(self, layer: int, tokens: Tensor) -> Tensor:
        """What W_O reads where every normed residual is zero before its gain: only biases are left."""
        record = Record()
        with record.norms(self.model), self._nothing_read(layer, record), record.inputs("z", self.writes[layer]):
            self.run(tokens)
        return record.kept["z"]

    @contextlib.contextmanager
    def _nothing_read(self, layer: int, record: "Record") -> Iterator[None]:
        """Give the values of a layer the bias of the norm before them, and nothing else, to read."""
        if self.reads[layer] is None:
            raise NotImplementedError("no module that makes the values is known")

        def hook(module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            norm = record.made(args[0])
            bias = getattr(norm, "bias", None)
            return (torch.zeros_like(args[0]) + (0 if bias is None else bias), *args[1:])

        handle = self.reads[layer].register_forward_pre_hook(hook)
        try:
            yield
        finally:
            handle.remove()

    def logit_effects(self, tokens: Tensor, query: Tensor, key: Tensor) -> dict[int, Tensor]:
        """Each head's direct effect through ``key`` on the logit of the token after ``query``, [head] by layer.

        Norms are held at this run's scales; W_U is centred; the constants by which a family multiplies are kept.
        """
        from direct_effect import direct_effects

        return direct_effects(self, tokens, query, key)


def _values_of(named: dict[str, Any], write: str) -> Any:
    """The module beside an attention's output matrix that makes its values; None where the names do not tell."""
    for parent in (write.rpartition(".")[0], write.rpartition(".")[0].rpartition(".")[0]):
        inside = [name for name in named if name.startswith(parent + ".") and VALUES.search(name)]
        if inside:
            return named[inside[0]]
    return None


class Record:
    """What passed through some modules in one forward pass."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}
        self.normed: list[tuple[Any, Tensor, Tensor]] = []

    @contextlib.contextmanager
    def inputs(self, name: str, module: Any) -> Iterator[None]:
        """Keep a module's first input."""
        handle = module.register_forward_pre_hook(lambda _, args: self.kept.update({name: args[0]}))
        try:
            yield
        finally:
            handle.remove()

    @contextlib.contextmanager
    def outputs(self, name: str, module: Any) -> Iterator[None]:
        """Keep a module's output."""
        handle = module.register_forward_hook(lambda _, __, output: self.kept.update({name: output}))
        try:
            yield
        finally:
            handle.remove()

    @contextlib.contextmanager
    def norms(self, model: Any) -> Iterator[None]:
        """Keep every norm with its input and output."""

        def hook(module: Any, args: tuple[Tensor, ...], output: Tensor) -> None:
            if args and isinstance(output, Tensor):
                self.normed.append((module, args[0], output))

        chosen = [module for module in model.modules() if "norm" in type(module).__name__.lower()]
        handles = [module.register_forward_hook(hook) for module in chosen]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def made(self, tensor: Tensor | None) -> Any:
        """The norm that made a tensor, or None."""
        return next((norm for norm, _, output in self.normed if tensor is not None and _same(output, tensor)), None)

    def read(self, tensor: Tensor) -> Any:
        """The norm that read a tensor, or None."""
        return next((norm for norm, given, _ in self.normed if _same(given, tensor)), None)

    @contextlib.contextmanager
    def attention(self, module: Any, layer_of: Callable[[Any], int | None]) -> Iterator[None]:
        """Keep queries' values and mixed outputs where a family's code calls the shared eager attention."""
        code = sys.modules[type(module).__module__]
        eager = code.eager_attention_forward

        def recorded(attention: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **named: Any) -> Any:
            mixed, weights = eager(attention, query, key, value, *args, **named)
            layer = layer_of(attention)
            self.kept["values", layer], self.kept["mixed", layer] = value, mixed
            self.kept["pattern", layer] = weights
            return mixed, weights

        code.eager_attention_forward = recorded
        try:
            yield
        finally:
            code.eager_attention_forward = eager


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.data_ptr() == b.data_ptr()

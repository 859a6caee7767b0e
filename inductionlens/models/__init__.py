"""The only room that knows TransformerLens."""

from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Model(Protocol):
    """Whatever answers to TransformerLens's names: ``cfg``, ``run_with_hooks``, ``W_Q`` ... and its hook names.

    Today that is ``HookedTransformer`` (3.9) or ``TransformerBridge`` (4.x). Naming the methods here keeps
    TransformerLens, which takes seconds to import, out of every module that only passes a model on.
    """

    cfg: Any

    def run_with_hooks(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model with functions hung on its named activations."""

    def parameters(self) -> Any:
        """The model's weights, one after the other."""

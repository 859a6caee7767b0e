"""Which token ids a model was trained on."""

import re
from collections import Counter
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Int
from torch import Tensor

from inductionlens.errors import InputError
from inductionlens.models import Model
from inductionlens.models.origin import origin_of

#: How byte-fallback tokenizers name the token of one byte.
_BYTE = re.compile("<0x[0-9A-F]{2}>")


def named_ids(model: Model) -> Int[Tensor, " vocabulary"]:
    """Ids of all of the tokenizer's tokens, never the padding of ``d_vocab``; all ids where there is no tokenizer."""
    d_vocab, tokenizer = model.cfg.d_vocab, getattr(model, "tokenizer", None)
    if tokenizer is None:
        return torch.arange(d_vocab)
    return torch.tensor(
        sorted(index for index in set(tokenizer.get_vocab().values()) if 0 <= index < d_vocab), dtype=torch.long
    )


def ordinary_ids(model: Model) -> Int[Tensor, " vocabulary"]:
    """Ids of ordinary tokens: those of `named_ids` without special and added ones, and without BOS."""
    tokenizer = getattr(model, "tokenizer", None)
    special = {origin_of(model).bos}
    if tokenizer is not None:
        special |= {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    return torch.tensor([index for index in named_ids(model).tolist() if index not in special], dtype=torch.long)


def encoder(model: Model) -> Callable[[str], list[int]] | None:
    """The model's own text-to-ids function, adding no special tokens; None if it has no tokenizer.

    The function raises InputError where the tokenizer gives an id that the model has no embedding for.
    """
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None:
        return None

    def encode(text: str) -> list[int]:
        # verbose=False: a text longer than the model's context is cut into windows afterwards, no reason to warn.
        ids = tokenizer.encode(text, add_special_tokens=False, verbose=False)
        if ids and max(ids) >= model.cfg.d_vocab:
            word = tokenizer.convert_ids_to_tokens(max(ids))
            raise InputError(
                f"The tokenizer of {origin_of(model).name} has words that the model has no embeddings for, such as "
                f"{word!r} with id {max(ids)} of {model.cfg.d_vocab}: resize the model (resize_token_embeddings) and "
                "save it again, or do without text (text='random', --text random; of repeats --tokens uniform)."
            )
        return ids

    return encode


def choose_bos(model: Model, bos: bool | int) -> int | None:
    """The id to put at position 0: the model's own for ``True``, none for ``False``, or the given id.

    Raises:
        InputError: the model names no BOS token, or the id lies outside its vocabulary.
    """
    if bos is False:
        return None
    if bos is True:
        own = origin_of(model).bos
        if own is None or not 0 <= own < model.cfg.d_vocab:
            raise InputError(
                f"The model {origin_of(model).name} names no BOS token inside its vocabulary; "
                "give a token id to start sequences with (bos=ID, --bos ID) or do without (bos=False, --no-bos)."
            )
        return own
    if not 0 <= bos < model.cfg.d_vocab:
        raise InputError(f"bos must be an id below the model's {model.cfg.d_vocab} tokens; got {bos}.")
    return int(bos)


def padding_id(model: Model) -> int | None:
    """The id that the model's tokenizer fills short sequences up with; None where it has no id of its own for that.

    Many tokenizers pad with EOS, and some with BOS: those ids are tokens like any other here.
    """
    tokenizer = getattr(model, "tokenizer", None)
    padding = getattr(tokenizer, "pad_token_id", None)
    others = {getattr(tokenizer, "eos_token_id", None), getattr(tokenizer, "bos_token_id", None), origin_of(model).bos}
    return None if padding in others else padding


def text_lengths(model: Model, tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, " batch"]:
    """How many tokens of each sequence come before the padding (see `padding_id`) that fills it up.

    Raises:
        InputError: padding in front of a token, where it moves the text and is attended to; or nothing but padding.
    """
    padding = padding_id(model)
    if padding is None:
        return torch.full((len(tokens),), tokens.shape[1])
    kept = tokens != padding
    lengths = kept.sum(1)
    place = torch.arange(tokens.shape[1], device=tokens.device)
    wrong = (kept != (place < lengths[:, None])).any(1) | (lengths == 0)
    if wrong.any():
        raise InputError(
            f"Padding (id {padding}) may only follow a sequence's tokens; in sequence {int(wrong.nonzero()[0])} it "
            "comes before one, or there is nothing else: pad on the right."
        )
    return lengths.cpu()


def spelling(model: Model) -> Callable[[int], str]:
    """How a token is written: as its text where that says which it is, else by its bytes, such as ``<0xE4>``.

    Sentence pieces keep the blank that they begin with. ``#17`` where there is no tokenizer, or no such token.
    """
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None:
        return lambda index: f"#{index}"

    def spell(index: int) -> str:
        piece = tokenizer.convert_ids_to_tokens(index)
        if piece is None or index >= len(tokenizer):
            return f"#{index}"
        if _BYTE.fullmatch(piece):
            return piece
        text = tokenizer.decode([index], clean_up_tokenization_spaces=False)
        if "\ufffd" in text:
            return _bytes_shown(piece)
        return f" {text}" if piece.startswith("\u2581") and not text.startswith(" ") else text or piece

    return spell


def told_apart(words: Mapping[int, str]) -> dict[int, str]:
    """Words by id; those that several ids share have the id behind them, such as ``the#17``."""
    shared = {word for word, count in Counter(words.values()).items() if count > 1}
    return {index: f"{word}#{index}" if word in shared else word for index, word in words.items()}


def _bytes_shown(piece: str) -> str:
    """A byte-level piece with its whole letters as they are and each other byte as ``<0xE4>``."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    byte_of = {letter: byte for byte, letter in bytes_to_unicode().items()}
    if any(letter not in byte_of for letter in piece):
        return piece  # of another kind of tokenizer: its own name for it
    text = bytes(byte_of[letter] for letter in piece).decode("utf-8", errors="surrogateescape")
    return "".join(f"<0x{ord(letter) - 0xDC00:02X}>" if 0xDC80 <= ord(letter) <= 0xDCFF else letter for letter in text)

"""Models built in milliseconds, without a network."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
# Small models are no faster on several threads, and far slower where another process wants the same cores.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

import inductionlens as il
from inductionlens.cli import speak
from inductionlens.models.named_weights import named_weights

# On a slow machine a command that a test runs may take half a minute; what it says then is tested by itself.
speak.EVERY = 3600.0


@pytest.fixture(scope="session")
def planted():
    """The planted induction model: previous-token head 0.1, induction head 1.2, four idle heads."""
    return il.planted()


@pytest.fixture(scope="session")
def toy_config():
    return il.ToyConfig(n_layers=2, n_heads=3, d_model=24, d_head=8, d_vocab=48, n_ctx=128, d_mlp=40)


@pytest.fixture(scope="session")
def random_toy(toy_config, tmp_path_factory):
    """A random two-layer model of three heads with LayerNorm and MLPs, loaded from its folder; biases not zero."""
    model = il.new_toy(toy_config, seed=3)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, weight in named_weights(model).items():
            weight.add_(torch.randn(weight.shape, generator=generator) * (0.3 if "b" in name else 0.15))
    folder = tmp_path_factory.mktemp("toy") / "random"
    il.save_toy(model, folder)
    return il.load_model(folder)


@pytest.fixture(scope="session")
def ragged():
    """Rows that repeat by chance, unevenly, each with a second BOS (id 0); every row differs."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(1, 7, (5, 14), generator=generator)
    tokens[:, 0] = 0
    tokens[torch.arange(5), torch.tensor([3, 5, 6, 8, 11])] = 0
    return tokens


@pytest.fixture(scope="session")
def patterns(ragged):
    """Random causal attention of three heads over the ragged rows."""
    generator = torch.Generator().manual_seed(2)
    batch, pos = ragged.shape
    scores = torch.randn(batch, 3, pos, pos, generator=generator) * 2
    return scores.masked_fill(~torch.ones(pos, pos, dtype=torch.bool).tril(), -torch.inf).softmax(-1)


@pytest.fixture(scope="session")
def gpt2_folder(tmp_path_factory):
    """A tiny random GPT-2 with its own byte-level tokenizer, as save_pretrained leaves it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("models") / "gpt2-tiny"
    end = "<|endoftext|>"
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        ["def f(x): return x"] * 3,
        trainers.BpeTrainer(vocab_size=270, special_tokens=[end], initial_alphabet=alphabet, show_progress=False),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=end, eos_token=end, unk_token=end)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    # 300 rows of embeddings for fewer tokens: padding, as many hub models have. n_inner is not 4 x n_embd.
    config = GPT2Config(
        vocab_size=300, n_positions=128, n_embd=24, n_layer=2, n_head=3, n_inner=40, bos_token_id=0, eos_token_id=0
    )
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def gpt2_copy(gpt2_folder, tmp_path):
    """A copy of that folder for a test to break."""
    import shutil

    return shutil.copytree(gpt2_folder, tmp_path / "model")

"""In-context learning: losses by position, the score, and the windows they are read on."""

import json
import math
import os
import sys
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import ablation_twins
import numpy as np
import pytest
import torch
from test_cli import run

import inductionlens as il
from inductionlens import corpus
from inductionlens.file_text import EvenSpread, FileText
from inductionlens.intervals import mean_interval
from inductionlens.measure import losses_by_position
from inductionlens.models.vocabulary import encoder
from inductionlens.scores.losses import icl_score, loss_derivative
from inductionlens.studies.windows import make_windows, pick_pair

TINY = Path(__file__).parent.parent / "data" / "tiny-gpt2"


@pytest.fixture(scope="module")
def gpt2(gpt2_folder):
    return il.load_model(gpt2_folder)


@pytest.fixture
def small_is_large(monkeypatch):
    monkeypatch.setattr(corpus, "LARGE", 100)


# The score and the derivative.
def curves(n=512):
    """Rows of a - b ln i, with any loss at all at index 0, and b."""
    a, b = torch.tensor([[6.0], [5.0], [3.0]]).double(), torch.tensor([0.5, 0.0, -0.25]).double()
    losses = a - b[:, None] * torch.arange(n).double().clamp(min=1).log()
    losses[:, 0] = torch.tensor([9.0, 0.0, 100.0])
    return losses, b


def test_the_score_of_a_logarithm_is_minus_b_ln_10_and_of_a_flat_loss_0():
    losses, b = curves()
    assert torch.allclose(icl_score(losses), -b * math.log(10))
    assert torch.allclose(icl_score(losses, 400, 40), -b * math.log(10))
    assert torch.allclose(icl_score(losses, 100, 50), -b * math.log(2))
    assert icl_score(torch.full((2, 60), 3.5), 59, 0).tolist() == [0, 0]


def test_the_derivative_of_a_logarithm_is_minus_b_in_every_bin():
    losses, b = curves()
    found = loss_derivative(losses)
    assert torch.allclose(found.slope, -b[:, None].expand_as(found.slope), atol=1e-9)
    assert (found.first[0], found.last[-1]) == (1, 511)
    assert torch.equal(found.first[1:], found.last[:-1] + 1)
    assert (found.last > found.first).all()
    assert len(found.first) <= 19


@pytest.mark.parametrize("edges", [2, 3, 20, 33])
def test_score_and_derivative_agree_with_their_twins(edges):
    generator = torch.Generator().manual_seed(edges)
    for n in (1, 2, 3, 4, 5, 9, 24, 63, 127, 255, 511, 512):
        losses = torch.rand(3, n, generator=generator, dtype=torch.float64) * 9
        found, expected = loss_derivative(losses, edges), [ablation_twins.loss_derivative(row, edges) for row in losses]
        for row, bins in zip(found.slope, expected, strict=True):
            assert [(first, last) for first, last, _ in bins] == list(
                zip(found.first.tolist(), found.last.tolist(), strict=True)
            )
            assert row.tolist() == pytest.approx([slope for *_, slope in bins], nan_ok=True)
        if n > 7:
            late, early = n - 3, n // 5
            expected = ablation_twins.icl_score(losses.tolist(), late, early)
            assert icl_score(losses, late, early).mean().item() == pytest.approx(expected)


@pytest.mark.parametrize(("late", "early"), [(60, 5), (5, 5), (5, 9), (5, -1), (-1, 5)])
def test_a_pair_that_does_not_fit_is_refused(late, early):
    sentence = f"0 <= early < late <= 59, the last index of 60 losses; got late={late} and early={early}"
    with pytest.raises(il.InputError, match=sentence):
        icl_score(torch.zeros(2, 60), late, early)
    with pytest.raises(il.InputError, match=sentence):
        pick_pair(61, late, early)


def test_one_edge_makes_no_bin():
    with pytest.raises(il.InputError, match="edges must be at least 2, the ends of one bin; got 1"):
        loss_derivative(torch.zeros(1, 9), 1)


def test_the_default_pair_is_the_papers_or_the_last_index():
    """502 tokens give losses 0 .. 500."""
    assert pick_pair(512) == pick_pair(502) == pick_pair(1024) == (500, 50)
    assert pick_pair(501) == (499, 50)
    assert pick_pair(102) == (100, 50)
    assert pick_pair(101) == (99, 19)
    assert pick_pair(3) == (1, 0)
    assert pick_pair(512, late=300) == (300, 50)
    assert pick_pair(512, early=7) == (500, 7)
    assert pick_pair(512, late=40) == (40, 8)
    with pytest.raises(il.InputError, match="at least 3 tokens, which give 2 losses to compare; got 2"):
        pick_pair(2)


# Losses by position.
@pytest.mark.parametrize("name", ["planted", "random_toy", "gpt2"])
def test_losses_are_the_models_own(name, request):
    model = request.getfixturevalue(name)
    tokens = torch.randint(1, 40, (5, 33), generator=torch.Generator().manual_seed(0))
    seen = []
    found = losses_by_position(model, tokens, 2, seen.append)
    with torch.no_grad():
        expected = model(tokens, return_type="loss", loss_per_token=True)
    assert found.shape == (5, 32)
    assert np.allclose(found, expected[:, :32].numpy(), atol=2e-5)
    assert seen == [2, 2, 1]


def test_a_batch_is_its_rows(random_toy):
    tokens = make_windows(random_toy, windows=6).tokens
    seen = []
    together = il.in_context_learning(random_toy, tokens)
    alone = il.in_context_learning(random_toy, tokens, batch_size=1, on_progress=lambda *at: seen.append(at))
    assert np.allclose(together.losses, alone.losses, atol=1e-6)
    assert np.allclose(together.losses, losses_by_position(random_toy, tokens), atol=1e-6)
    assert np.allclose(together.losses, il.in_context_learning(random_toy, tokens.int()).losses, atol=1e-6)
    assert seen == [(n, 6) for n in range(1, 7)]
    assert together.score == pytest.approx(alone.score, abs=1e-6)


# The study.
def test_the_planted_model_learns_in_context_as_much_as_there_is(planted):
    """Uniform over 64 tokens before the repeat, certain after it; the random toy learns nothing of the kind."""
    found = il.in_context_learning(planted, n_windows=20)
    assert (found.late, found.early) == (190, 50)
    assert found.score == pytest.approx(-math.log(64), abs=0.02)
    assert found.low <= found.score <= found.high < -4
    assert found.pairs["icl_score"].to_numpy() == pytest.approx(-math.log(64), abs=0.02)


def test_tables_say_what_the_losses_say(gpt2):
    found = il.in_context_learning(gpt2, text="stdlib", n_windows=7, late=120, early=30, seed=3)
    losses = found.losses
    assert losses.shape == (7, 127)
    assert (found.late, found.early) == (120, 30)
    difference = losses[:, 120] - losses[:, 30]
    assert found.score == pytest.approx(difference.mean())
    assert [found.low, found.high] == pytest.approx(np.ravel(mean_interval(difference[None])))

    table = found.by_position
    assert table["index"].tolist() == list(range(127))
    assert table["loss"].to_numpy() == pytest.approx(losses.mean(0))
    assert np.allclose([table["loss_low"], table["loss_high"]], mean_interval(losses.T))

    pairs = {(row["late"], row["early"]): row for row in found.pairs.to_dict("records")}
    assert set(pairs) == {(72, 15), (72, 30), (96, 15), (96, 30), (120, 15), (120, 30), (120, 60)}
    for (late, early), row in pairs.items():
        assert row["icl_score"] == pytest.approx((losses[:, late] - losses[:, early]).mean())
        assert row["icl_low"] < row["icl_score"] < row["icl_high"]

    expected = np.array(ablation_twins.loss_derivative(losses.mean(0)))
    assert found.derivative[["first", "last", "slope"]].to_numpy() == pytest.approx(expected)
    assert (found.derivative["slope_low"] < found.derivative["slope_high"]).all()


def test_a_saved_record_holds_what_the_table_does_not(random_toy, tmp_path):
    found = il.in_context_learning(random_toy, n_windows=5, seed=5)
    found.save(tmp_path / "icl.csv")
    assert (tmp_path / "icl.csv").read_text().startswith("index,loss,loss_low,loss_high\n0,")
    record = json.loads((tmp_path / "icl.csv.meta.json").read_text())
    assert record["icl"]["score"] == found.score
    assert (record["icl"]["late"], record["icl"]["early"], record["icl_index_base"]) == (126, 50, 0)
    assert record["icl"]["pairs"] == found.pairs.to_dict("records")
    assert record["icl"]["derivative"] == found.derivative.to_dict("records")
    assert record["windows"]["text"] == "random blocks of 51 tokens, each repeated"
    assert record["seed"] == 5


def test_one_window_has_no_interval(random_toy, tmp_path):
    found = il.in_context_learning(random_toy, n_windows=1)
    assert math.isfinite(found.score)
    assert math.isnan(found.low)
    found.save(tmp_path / "icl.json")
    record = json.loads((tmp_path / "icl.json.meta.json").read_text(), parse_constant=pytest.fail)
    assert record["icl"]["low"] is None


WRONG = [
    ({"windows": torch.zeros(2, 2).long()}, "at least 1 sequence of 3 to 128 tokens, the model's context; got 2 of 2"),
    ({"windows": torch.zeros(1, 129).long()}, "got 1 of 129"),
    ({"windows": torch.zeros(9).long()}, r"a tensor of token ids, \[sequence, pos\]; got \[9\] of torch.int64"),
    ({"windows": torch.zeros(2, 9)}, r"got \[2, 9\] of torch.float32"),
    ({"windows": torch.full((2, 9), 48)}, "ids between 0 and 47, .*; got 48"),
    ({"windows": torch.full((2, 9), -1)}, "ids between 0 and 47, .*; got -1"),
    ({"windows": torch.zeros(2, 9).long(), "n_windows": 3}, "Give windows, or text, n_windows, length and bos"),
    ({"windows": torch.zeros(2, 9).long(), "late": 8}, "late <= 7, the last index of 8 losses; got late=8 and early=1"),
    ({"batch_size": 0}, "batch_size must be at least 1; got 0"),
    ({"late": 300}, "late <= 126, the last index of 127 losses; got late=300 and early=50"),
    ({"n_windows": 0}, "windows must be at least 1; got 0"),
    ({"length": 129}, "length must lie between 3 and 128, the tokens of the model's context; got 129"),
    ({"length": 6}, "length must be at least 7 for random windows"),
    ({"seed": -1}, "seed must lie between 0"),
    ({"bos": 48}, "bos must be an id below the model's 48 tokens; got 48"),
    ({"text": "stdlib"}, r"no tokenizer to read text with; use text='random' \(--text random\)"),
]


@pytest.mark.parametrize(("given", "sentence"), WRONG)
def test_wrong_input_is_refused_in_words(given, sentence, random_toy):
    with pytest.raises(il.InputError, match=sentence):
        il.in_context_learning(random_toy, **given)


# Windows.
def test_random_windows_repeat_one_block_from_bos_on(random_toy):
    made = make_windows(random_toy, windows=4, length=128)
    assert made.tokens.shape == (4, 128)
    assert (made.tokens[:, 0] == made.bos).all()
    body = made.tokens[:, 1:]
    assert torch.equal(body[:, 51:], body[:, :-51])
    assert not torch.equal(body[0, :51], body[1, :51])
    # 46 ids may be drawn: none comes twice before all have come once.
    assert all(len(set(row.tolist())) == len(set(row[:51].tolist())) >= 45 for row in body)
    assert not (body == made.bos).any()


def test_random_windows_in_short_contexts_and_without_bos(planted):
    made = make_windows(planted, windows=2, length=21, bos=False)
    assert made.bos is None
    assert torch.equal(made.tokens[:, 10:20], made.tokens[:, :10])
    assert len(set(made.tokens[0, :10].tolist())) == 10
    long = make_windows(planted, "random", windows=2).tokens[:, 1:]
    assert all(len(set(row[:51].tolist())) == 51 for row in long)


@pytest.mark.parametrize("text", ["stdlib", "random"])
def test_the_seed_alone_decides_the_windows(text, gpt2):
    state = torch.get_rng_state()
    first, again, other = (make_windows(gpt2, text, windows=3, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.tokens, again.tokens)
    assert not torch.equal(first.tokens, other.tokens)
    assert torch.equal(torch.get_rng_state(), state)


def test_windows_of_the_standard_library_are_its_text(gpt2):
    made = make_windows(gpt2, windows=3)
    assert made.name.startswith("stdlib of Python 3.")
    assert (made.tokens[:, 0] == gpt2.tokenizer.bos_token_id).all()
    encode = encoder(gpt2)
    starts = {tuple(encode(text.text[:2032])[:127]) for text in corpus.python_stdlib()}
    assert all(tuple(row[1:].tolist()) in starts for row in made.tokens)


def test_windows_of_a_file_and_of_a_folder(gpt2, tmp_path):
    (tmp_path / "a.txt").write_text("abcdefgh" * 200)
    (tmp_path / "b.txt").write_text("stuvwxyz" * 200)
    file = make_windows(gpt2, tmp_path / "a.txt", windows=1, length=20)
    folder = make_windows(gpt2, str(tmp_path), windows=2, length=20)
    assert (file.name, folder.name) == ("a.txt", tmp_path.name)
    first, second = (encoder(gpt2)(letters * 4)[:19] for letters in ("abcdefgh", "stuvwxyz"))
    assert file.tokens[0, 1:].tolist() == first
    assert sorted(folder.tokens[:, 1:].tolist()) == sorted([first, second])
    assert file.digest == corpus.digest([corpus.Text("a.txt", "abcdefgh" * 200)])


def letters(piece):
    return [ord(letter) for letter in piece]


def test_two_seeds_take_different_windows_of_one_file_and_of_few():
    book = "".join(chr(33 + place % 90) for place in range(9 * 16 * 40))
    for texts in ([corpus.Text("book", book)], [corpus.Text("one", book), corpus.Text("two", book[::-1])]):
        rows = [
            corpus.text_windows(texts, letters, windows=6, length=10, bos=0, seed=seed).tolist() for seed in (0, 0, 1)
        ]
        assert rows[0] == rows[1]
        assert sorted(rows[0]) != sorted(rows[2])


def test_windows_are_counted_in_tokens_whatever_a_letter_costs():
    """A letter of three tokens: 300 of them give 100 windows of 9 and no 101st; half a token a letter gives as many."""
    text = "".join(chr(256 + place) for place in range(1800))

    def thrice(piece):
        return [3 * ord(letter) + part for letter in piece for part in range(3)]

    def halved(piece):
        return letters(piece)[::2]

    for encode, words in ((thrice, text[:300]), (halved, text)):
        whole = encode(words)
        rows = corpus.text_windows([corpus.Text("t", words)], encode, windows=100, length=10, bos=0, seed=3)
        assert sorted(rows[:, 1:].tolist()) == sorted(whole[at : at + 9] for at in range(0, 900, 9))
        some = corpus.text_windows([corpus.Text("t", words)], encode, windows=60, length=10, bos=0, seed=4)
        assert len({tuple(row) for row in some.tolist()}) == 60
        with pytest.raises(il.InputError, match="gives only 100 windows of 10 tokens and 101 are needed"):
            corpus.text_windows([corpus.Text("t", words)], encode, windows=101, length=10, bos=0, seed=3)


def test_a_chinese_text_gives_every_window_that_fits(gpt2, tmp_path, request):
    path = tmp_path / "zh.txt"
    path.write_text("".join(chr(0x4E00 + place * 7 % 400) for place in range(2000)), encoding="utf-8")
    fits = len(encoder(gpt2)(path.read_text(encoding="utf-8"))) // 127
    assert fits > 40
    assert len(make_windows(gpt2, path, windows=fits).tokens) == fits
    request.getfixturevalue("small_is_large")
    assert len(make_windows(gpt2, path, windows=fits).tokens) == fits


@pytest.mark.parametrize("large", [False, True])
def test_a_byte_order_mark_is_no_text(large, gpt2, tmp_path, request):
    if large:
        request.getfixturevalue("small_is_large")
    (tmp_path / "plain").mkdir()
    (tmp_path / "marked").mkdir()
    text = "the cat sat on a mat, for a while " * 200
    (tmp_path / "plain" / "a.txt").write_text(text)
    (tmp_path / "marked" / "a.txt").write_text(text, encoding="utf-8-sig")
    plain, marked = (make_windows(gpt2, tmp_path / name / "a.txt", windows=3) for name in ("plain", "marked"))
    assert torch.equal(plain.tokens, marked.tokens)
    assert plain.digest == marked.digest


@pytest.mark.parametrize(
    ("encoding", "named"),
    [("utf-16", "UTF-16"), ("utf-32", "UTF-32"), ("utf-16-be", "UTF-16"), ("utf-32-be", "UTF-32")],
)
def test_other_encodings_are_named_by_their_marks(encoding, named, gpt2, tmp_path):
    (tmp_path / "a.txt").write_text("\ufeff" * encoding.endswith("be") + "words " * 999, encoding=encoding)
    with pytest.raises(il.InputError, match=rf"a\.txt is {named}, as its first bytes say; save it as UTF-8"):
        make_windows(gpt2, tmp_path / "a.txt")


@pytest.mark.parametrize("at", [0, 300_000, 2**18 + 1, 399_999])
@pytest.mark.parametrize("large", [False, True])
def test_a_bad_byte_is_found_wherever_it_is(at, large, gpt2, tmp_path, request):
    if large:
        request.getfixturevalue("small_is_large")
    path = tmp_path / "bad.txt"
    words = bytearray("ä".encode() * 200_000)
    words[at] = 0xFF
    path.write_bytes(words)
    with pytest.raises(il.InputError, match=r"bad\.txt is not UTF-8: .* at byte (\d+)\.") as error:
        make_windows(gpt2, path, windows=2)
    # An odd byte is the second of its letter, which is then wrong from its first one on.
    assert f"at byte {at - at % 2}." in str(error.value)


def test_files_without_end_are_refused_unread(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "b.txt")
    (tmp_path / "a.txt").write_text("words")
    (tmp_path / "c.txt").mkdir()  # a folder by that name is looked into
    for text in (tmp_path, tmp_path / "b.txt"):
        with pytest.raises(
            il.InputError, match=r"b\.txt must be a file; it is a pipe, which may have no end: save what"
        ):
            il.in_context_learning("no such model: the text comes first", text=text)
    with pytest.raises(il.InputError, match="The text /dev/zero must be a file; it is a device"):
        il.in_context_learning("no such model", text="/dev/zero")
    (tmp_path / "b.txt").unlink()
    assert [text.text for text in corpus.text_file(tmp_path)] == ["words"]


# Padding.
@pytest.fixture
def padded(gpt2_folder):
    """A model whose tokenizer pads with a token of its own, and windows of 30, 25 and 40 tokens filled up to 40."""
    model = il.load_model(gpt2_folder)
    padding = encoder(model)("z")[0]
    model.tokenizer.pad_token = "z"
    tokens = torch.randint(100, 250, (7, 40), generator=torch.Generator().manual_seed(0))
    tokens[0, 30:] = tokens[1, 25:] = padding
    return model, tokens


def test_padding_is_no_text(padded, tmp_path):
    model, tokens = padded
    found = il.in_context_learning(model, tokens)
    assert found.provenance["windows"]["padding_left_out"] == 25
    assert (found.late, found.early) == pick_pair(25)
    losses = losses_by_position(model, tokens)
    assert found.score == pytest.approx((losses[:, 23] - losses[:, found.early]).mean())
    assert np.isnan(found.losses[0, 29:]).all()
    assert np.isfinite(found.losses[0, :29]).all()
    table = found.by_position
    assert table["loss"][28] == pytest.approx(losses[[0, 2, 3, 4, 5, 6], 28].mean())
    assert table["loss"][38] == pytest.approx(losses[2:, 38].mean())
    assert [table["loss_low"][38], table["loss_high"][38]] == pytest.approx(
        np.ravel(mean_interval(losses[2:, 38][None]))
    )
    assert found.derivative["last"].max() == 23
    with pytest.raises(il.InputError, match="late <= 23, the last index of 24 losses; got late=24"):
        il.in_context_learning(model, tokens, late=24)
    cut = il.in_context_learning(model, tokens[:2])
    assert len(cut.by_position) == 29
    whole = il.in_context_learning(model, tokens[2:])
    assert whole.provenance["windows"]["padding_left_out"] == 0
    assert np.isfinite(whole.losses).all()


def test_padding_with_eos_is_text(padded):
    model, tokens = padded
    model.tokenizer.pad_token = model.tokenizer.eos_token
    tokens[0, 30:] = model.tokenizer.eos_token_id
    found = il.in_context_learning(model, tokens)
    assert found.provenance["windows"]["padding_left_out"] == 0
    assert found.late == 38


@pytest.mark.parametrize("study", [il.in_context_learning, il.ablation_study, il.path_orders])
def test_padding_in_front_of_text_is_refused(study, padded):
    model, tokens = padded
    with pytest.raises(il.InputError, match=r"may only follow a sequence's tokens; in sequence 0 .* pad on the right"):
        study(model, tokens.flip(1))
    tokens[1, 2:] = model.tokenizer.pad_token_id
    with pytest.raises(il.InputError, match="at least 3 tokens before its padding; window 1 has 2"):
        study(model, tokens)


def test_text_that_is_empty_or_too_short_is_one_sentence(gpt2, tmp_path):
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(il.InputError, match="The text is empty, so there is no window to cut; give text with words"):
        make_windows(gpt2, tmp_path / "empty.txt")
    (tmp_path / "short.txt").write_text("q" * 30)
    with pytest.raises(il.InputError, match="too short for one window of 128 tokens: its longest piece has 30 and 127"):
        make_windows(gpt2, tmp_path / "short.txt")
    with pytest.raises(
        il.InputError, match=r"only 1 windows of 20 tokens and 2 are needed; .*fewer or shorter windows"
    ):
        make_windows(gpt2, tmp_path / "short.txt", windows=2, length=20)
    with pytest.raises(il.InputError, match=r"The text nope\.txt cannot be read: No such file"):
        make_windows(gpt2, "nope.txt")


# Large files.
def test_a_gigabyte_is_read_piece_by_piece(gpt2, tmp_path, monkeypatch):
    """A sparse file: a few bytes on disk, a gigabyte to whoever reads it whole."""
    path, size = tmp_path / "large.txt", 2**30
    with path.open("wb") as file:
        file.truncate(size)
    taken = []
    read = FileText.read
    monkeypatch.setattr(FileText, "read", lambda *a: (taken.append(read(*a)), taken[-1])[1])
    monkeypatch.setattr(Path, "read_text", pytest.fail)
    tracemalloc.start()
    made = make_windows(gpt2, path, windows=5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert made.tokens.shape == (5, 128)
    assert sum(map(len, taken)) == 5 * 127 * 16 + 4 * 4096
    assert peak < 2**20


def test_windows_of_a_large_file_come_from_all_over_it(tmp_path, small_is_large):
    """100 pieces of 144 letters; piece n is letter n."""
    path = tmp_path / "book.txt"
    path.write_text("".join(chr(33 + n % 64) * 144 for n in range(100)), newline="")
    texts = list(corpus.text_file(path))
    assert isinstance(texts[0].text, FileText)

    def places(windows, seed):
        shape = {"windows": windows, "length": 10, "bos": 0, "seed": seed}
        return corpus.text_windows(texts, lambda piece: [ord(letter) for letter in piece], **shape)[:, 1].tolist()

    assert sorted(places(100, 0)) == sorted(33 + n % 64 for n in range(100))
    assert places(20, 1) == places(20, 1) != places(20, 2)


def test_many_small_files_are_a_large_text(tmp_path, small_is_large):
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(name * 40)
    assert [type(text.text) for text in corpus.text_file(tmp_path)] == [FileText] * 3
    assert [text.text for text in corpus.text_file(tmp_path / "a.txt")] == ["a" * 40]


@pytest.mark.parametrize("count", [1, 2, 3, 10, 99, 100, 1000])
def test_an_even_spread_meets_each_number_once_and_leaves_no_large_hole(count):
    order = EvenSpread(count, torch.Generator().manual_seed(count))
    assert sorted(order[place] for place in range(count)) == list(range(count))
    if count == 1000:
        some = sorted(order[place] for place in range(10))
        holes = [after - before for before, after in zip(some, [*some[1:], some[0] + count], strict=True)]
        assert max(holes) <= 3 * count / 10


def test_letters_cut_by_the_ends_of_a_slice_are_left_out(tmp_path):
    text = "aé€😀" * 3
    path = tmp_path / "letters.txt"
    path.write_bytes(text.encode())
    ends = np.cumsum([0, *(len(letter.encode()) for letter in text)]).tolist()
    lazy = FileText(path, ends[-1])
    assert len(lazy) == len(text.encode())
    for start in range(ends[-1] + 1):
        for stop in range(start, ends[-1] + 1):
            whole = [letter for n, letter in enumerate(text) if start <= ends[n] and ends[n + 1] <= stop]
            assert lazy[start:stop] == "".join(whole)


def test_a_large_file_says_what_is_wrong_with_it(tmp_path, small_is_large):
    path = tmp_path / "broken.txt"
    path.write_bytes(b"good\r\nline\r" + b"a" * 100 + b"\xff" * 100)
    text = corpus.Text(path.name, FileText(path, 211))
    assert text.text[:12] == "good\nline\na"
    with pytest.raises(il.InputError, match=r"broken\.txt is not UTF-8 in bytes 100 to 211"):
        text.text[100:300]
    path.write_bytes(b"a" * 210 + b"\xc3")
    with pytest.raises(il.InputError, match="unexpected end of data"):
        text.text[200:300]
    path.unlink()
    with pytest.raises(il.InputError, match=r"broken\.txt cannot be read: No such file"):
        text.text[:12]


def test_the_digest_of_a_large_file_is_its_size_and_four_places(tmp_path, small_is_large):
    path = tmp_path / "book.txt"
    digests = set()
    for content in (b"a" * 50_000, b"a" * 50_001, b"a" * 49_999 + b"b", b"b" + b"a" * 49_999):
        path.write_bytes(content)
        digests.add(corpus.digest(list(corpus.text_file(path))))
        assert corpus.digest(list(corpus.text_file(path))) in digests
    assert len(digests) == 4


# Data sets of the hub.
def stand_in(monkeypatch, rows, split="train"):
    """A `datasets` that streams ``rows``; gives what was asked of it and how many rows were taken."""
    asked, taken = [], []

    def load_dataset(*names, **how):
        asked.append((names, how))
        return {split: ((taken.append(row), row)[1] for row in rows)}

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    return asked, taken


@pytest.mark.parametrize("column", ["text", "content"])
def test_a_hub_data_set_is_streamed(monkeypatch, gpt2, column):
    asked, taken = stand_in(monkeypatch, ({"id": n, column: chr(65 + n % 26) * 300} for n in range(10**6)))
    made = make_windows(gpt2, "hub:some/set:small", windows=2, length=30)
    assert asked == [(("some/set", "small"), {"streaming": True})]
    assert len(taken) == 8
    assert made.name == "hub:some/set:small"
    assert all(len(set(row[1:].tolist())) == 1 for row in made.tokens)


def test_a_scan_reads_previous_tokens_on_a_hub_data_set(monkeypatch, gpt2):
    asked, taken = stand_in(monkeypatch, ({"text": chr(65 + n % 26) * 10**4} for n in range(10**6)))
    found = il.scan(gpt2, sequences=2, period=5, logit_period=5, controls=False, text="hub:some/set")
    assert asked == [(("some/set", None), {"streaming": True})]
    assert len(taken) == 40  # four rows a window
    assert set(found.table["previous_token_source"]) == {"text"}
    assert found.provenance["probes"]["previous_token"].startswith("hub:some/set, 10 windows")


def test_short_rows_are_joined_and_the_first_split_is_taken(monkeypatch):
    stand_in(monkeypatch, [{"text": letter * 5} for letter in "abcde"], split="validation")
    texts = [text.text for text in corpus.hub_texts("some/set", least=8)]
    assert texts == ["aaaaa\n\nbbbbb", "ccccc\n\nddddd", "eeeee"]
    stand_in(monkeypatch, [{"text": letter * 5} for letter in "ab"])
    assert [text.text for text in corpus.hub_texts("some/set", least=5)] == ["aaaaa", "bbbbb"]


def test_a_data_set_without_text_and_one_without_a_name(monkeypatch):
    stand_in(monkeypatch, [{"image": 1, "label": 2}])
    with pytest.raises(il.InputError, match="'some/set' has no column text or content to read; it has image, label"):
        list(corpus.hub_texts("some/set"))
    with pytest.raises(il.InputError, match="hub: must be followed by the name of a data set"):
        list(corpus.hub_texts(""))


def test_without_a_network_the_offline_ways_are_named(gpt2):
    with pytest.raises(
        il.InputError, match=r"'no/such' could not be read from the hub .*; offline, give 'stdlib', or a"
    ):
        make_windows(gpt2, "hub:no/such")


@pytest.mark.download
def test_a_small_data_set_from_the_hub(gpt2):
    made = make_windows(gpt2, "hub:Salesforce/wikitext:wikitext-2-raw-v1", windows=4)
    assert made.tokens.shape == (4, 128)


# The command line.
def test_the_command_prints_the_score_with_its_sign_and_writes_the_table(tmp_path):
    out = tmp_path / "icl.csv"
    code, printed, err = run("icl", TINY, "--windows", 6, "--out", out)
    assert (code, err) == (0, "")
    record = json.loads((tmp_path / "icl.csv.meta.json").read_text())
    lines = printed.splitlines()
    found = record["icl"]
    assert lines[0].startswith(
        f"ICL score {found['score']:.3f} nats [{found['low']:.3f}, {found['high']:.3f}]: loss at "
    )
    assert "index 254 minus loss at index 50, negative means the model predicts later tokens better" in lines[0]
    assert f"(6 windows of 256 tokens: {record['windows']['text']})." in lines[0]
    assert lines[1].startswith("Over 7 other index pairs it runs from ")
    assert lines[2] == f"255 rows written to {out}"
    assert len(out.read_text().splitlines()) == 256


OPTIONS = {
    "--text random": {"text": "random"},
    "--windows 3": {"n_windows": 3},
    "--length 40": {"length": 40},
    "--late 30": {"late": 30},
    "--early 3": {"early": 3},
    "--bos 5": {"bos": 5},
    "--no-bos": {"bos": False},
    "--seed 4": {"seed": 4},
    "--batch-size 2": {"batch_size": 2},
    "--pool text": {"pool": "text"},
}


@pytest.mark.parametrize("words", OPTIONS)
def test_every_option_arrives(words, monkeypatch):
    from inductionlens.studies import icl as module

    seen = []
    monkeypatch.setattr(module, "in_context_learning", lambda model, on_progress, **given: seen.append(given))
    assert run("icl", "planted", "-q", *words.split())[0] == 0
    defaults = {"text": "auto", "n_windows": 50, "length": None, "late": None, "early": None, "bos": True, "seed": 0}
    assert seen == [{**defaults, "batch_size": None, "pool": "tokenizer", **OPTIONS[words]}]


def test_quiet_says_nothing_and_one_window_has_no_interval():
    assert run("icl", "planted", "--windows", 2, "-q") == (0, "", "")
    code, printed, _ = run("icl", "planted", "--windows", 1, "--late", 100)
    assert code == 0
    assert printed.startswith("ICL score -4.1")
    assert "nats [no interval]: loss at index 100 minus loss at index 50" in printed
    assert "(1 window of 192 tokens" in printed


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("planted --late 300", "late <= 190, the last index of 191 losses; got late=300 and early=50"),
        ("planted --late 40 --early 60", "got late=40 and early=60"),
        ("planted --windows 0", "windows must be at least 1; got 0"),
        ("planted --text stdlib", "The model has no tokenizer to read text with"),
        ("planted --bos 3 --no-bos", "--bos and --no-bos contradict each other"),
        ("planted --out a.txt", "The suffix of a.txt must be one of .csv, .parquet, .json"),
        ("planted --out no/a.csv", "there is no folder no"),
        ("./missing", "There is no folder ./missing"),
        ("planted --late soon", "Invalid value for '--late'"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(words, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, printed, err = run("icl", "--out", "here.csv", *words.split())
    assert (code, printed) == (2, "")
    assert sentence in err
    assert len(err.splitlines()) == 1
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("out", ["a.txt", "no/a.csv", "folder.csv", "taken.csv"])
def test_a_place_that_cannot_be_written_is_refused_before_any_work(out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("inductionlens.models.loading.load_model", pytest.fail)
    for folder in ("folder.csv", "taken.csv.meta.json"):
        (tmp_path / folder).mkdir()
    assert run("icl", "planted", "--out", out)[0] == 2

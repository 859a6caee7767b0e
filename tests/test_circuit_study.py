"""What feeds what, as a user meets it: planted answers, tables, the command line, refusals."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from test_cli import run

import inductionlens as il
from inductionlens import Head, InputError
from inductionlens.circuit_columns import CIRCUIT_COLUMNS
from inductionlens.composition import own_token_shares
from inductionlens.effect_columns import EFFECT_COLUMNS
from inductionlens.measure import measure_attention
from inductionlens.models.circuits import ov_eigenvalues
from inductionlens.models.named_weights import named_weights
from inductionlens.models.planted import PLANTED
from inductionlens.models.vocabulary import named_ids, ordinary_ids, spelling, told_apart
from inductionlens.scores.attention import after_copy
from inductionlens.studies.circuit import _probe, qk_expansion
from inductionlens.studies.circuit_tables import _where_clear, least_prefix_matching
from inductionlens.studies.repeats import DISTRIBUTIONS
from inductionlens.studies.repeats import _probe as repeated_probe
from inductionlens.studies.trigrams import WORDS
from inductionlens.tables import COLUMNS, explain
from inductionlens.trigrams import skip_trigrams_of

DATA = Path(__file__).parent.parent / "data"


def refused(match):
    return pytest.raises(InputError, match=match)


@pytest.fixture(scope="module")
def scores():
    """A quick scan of each planted model."""
    return {kind: il.scan(il.planted(kind), sequences=2, controls=False) for kind in PLANTED}


@pytest.fixture(scope="module")
def trained():
    return il.circuit(DATA / "attn-only-2l", sequences=5)


# Planted answers.
@pytest.mark.parametrize(
    ("kind", "via", "share"), [("induction", "k", "prefix_lost"), ("pointer", "q", "prefix_lost"),
                               ("v-composition", "v", "logit_lost")]
)  # fmt: skip
def test_planted_circuits_are_found_without_being_told(scores, kind, via, share):
    readers = "all" if kind == "v-composition" else "induction"
    found = il.circuit(il.planted(kind), readers=readers, scores=scores[kind], sequences=5)
    paths = found.paths("1.2")
    best = paths.iloc[0]
    assert (best["writer"], best["via"], best["rank_causal"], best["rank_composition"]) == ("L0H1", via, 1, 1)
    for name in (share, f"{share}_direct", f"{share}_low", f"{share}_high"):
        assert best[name] == pytest.approx(1, abs=1e-5)
    assert best["composition"] > 0.02
    assert best["composition_z"] > 100
    others = paths.iloc[1:]
    assert others["causal"].abs().max() < 1e-5
    assert not (others["composition"] > 0).any()
    planted_pair = others[others["writer"] == "L0H1"]
    assert planted_pair["composition_raw"].tolist() == [0, 0]
    if kind != "v-composition":
        assert found.readers == (Head(1, 2),)
        assert best["ablated_lost"] == pytest.approx(1, abs=1e-5)


def test_the_trained_toys_writer_is_the_one_whose_removal_costs_most(trained):
    """Reader by reader, against a whole run with each writer switched off."""
    model = il.load_model(DATA / "attn-only-2l")
    probe = il.repeated_tokens(il.token_pool(range(1, 256)), period=25, repeats=4, sequences=5, bos=0, seed=8)
    costs = {}
    for writer in range(4):
        attended = {}

        def keep(pattern, hook, attended=attended):
            attended["pattern"] = pattern

        with il.ablate(model, [Head(0, writer)]), torch.no_grad():
            model.run_with_hooks(probe.tokens, return_type=None, fwd_hooks=[("blocks.1.attn.hook_pattern", keep)])
        at = torch.arange(26, 51)
        costs[writer] = attended["pattern"][:, :, at, at - 24].mean((0, 2))
    assert len(trained.readers) == 4
    for reader in trained.readers:
        named = Head.parse(trained.paths(reader).iloc[0]["writer"])
        assert named.index == min(costs, key=lambda writer: float(costs[writer][reader.index]))


# Shares of nothing.
def test_least_prefix_matching_is_that_of_attention_spread_evenly():
    for bos, period in ((0, 4), (None, 7)):
        probe = il.repeated_tokens(il.token_pool(range(1, 60)), period=period, repeats=2, sequences=3, bos=bos, seed=0)
        length = probe.tokens.shape[1]
        even = torch.tril(torch.ones(length, length)) / torch.arange(1, length + 1)[:, None]
        pairs = [
            (query, key + 1)
            for query in range(length) for key in range(query) if probe.tokens[0, key] == probe.tokens[0, query]
        ]  # fmt: skip
        assert len(pairs) == period
        expected = sum(float(even[pair]) for pair in pairs) / period
        assert least_prefix_matching(probe) == pytest.approx(expected)


def test_shares_of_a_reader_with_nothing_to_lose_are_empty_and_the_words_say_why(tmp_path):
    """Sharp attention that has nothing to do with repeats: 87% of a millionth was once lost."""
    shape = il.ToyConfig(n_layers=2, n_heads=2, d_model=32, d_head=16, d_vocab=64, n_ctx=128)
    model = il.new_toy(shape, seed=3)
    weights = named_weights(model)
    with torch.no_grad():
        for layer in range(2):
            weights[f"blocks.{layer}.attn.W_Q"].mul_(12)
    il.save_toy(model, tmp_path / "toy")
    code, printed, _ = run("circuit", tmp_path / "toy", "--readers", "1.0,1.1", "--out", tmp_path / "pairs.csv")
    assert code == 0
    assert "%" not in printed
    assert "1.0 has nothing that a writer could take away: its prefix matching of 0.0" in printed
    assert "is below 0.01 or not clear of 0." in printed
    pairs = pd.read_csv(tmp_path / "pairs.csv")
    shares = [name for name in pairs.columns if "_lost" in name or name in ("causal", "rank_causal")]
    assert len(shares) == 11
    assert pairs[shares].isna().all(axis=None)
    assert pairs[["prefix_matching", "induction_logit", "composition"]].notna().all(axis=None)


def test_shares_are_given_as_soon_as_there_is_something_to_lose():
    """By size, and by an interval that holds neither chance nor 0."""
    rows = np.array([[0.5] * 5, [0.02] * 5, [0.0, 0.0, 0.0, 0.0, 0.9], [-0.5] * 5])
    kept = np.isfinite(_where_clear(rows, 0.04, 0.04)).all(1)
    assert kept.tolist() == [True, False, False, True]
    assert np.isfinite(_where_clear(rows[:, :2], 0.04, 0.04)).all(1).tolist() == [True, False, False, True]


# The table.
def test_there_is_one_row_per_writer_later_reader_and_via(trained):
    pairs = trained.pairs
    assert len(pairs) == 4 * 4 * 3
    assert not pairs.duplicated(["writer", "reader", "via"]).any()
    three = il.circuit(DATA / "tiny-gpt2", sequences=2).pairs
    assert len(three) == (4 * 4 + 8 * 4) * 3
    assert all(Head.parse(row["writer"]).layer < Head.parse(row["reader"]).layer for row in three.to_dict("records"))
    measured = three[three["causal"].notna()]
    assert set(measured["reader"]) == {"L1H0", "L2H2", "L2H3"}
    assert measured[["prefix_lost", "logit_lost", "ablated_lost", "eigen"]].notna().all(axis=None)
    assert three.loc[three["reader"] == "L1H1", "prefix_lost"].isna().all()
    # Through its MLPs, above all: what 0.3 itself writes is a small part of what 2.2 loses with it.
    path = three[(three["writer"] == "L0H3") & (three["reader"] == "L2H2") & (three["via"] == "k")].iloc[0]
    for share in ("prefix_lost", "logit_lost"):
        assert path[share] > 0.8
        assert path[f"{share}_direct"] < 0.3


def test_columns_agree_with_each_other(trained):
    pairs = trained.pairs
    baseline, spread = (trained.provenance["composition"][name] for name in ("baseline", "spread"))
    assert np.allclose(pairs["composition"], pairs["composition_raw"] - baseline)
    assert np.allclose(pairs["composition_z"], pairs["composition"] / spread)
    assert np.array_equal(pairs["causal"], np.where(pairs["via"] == "v", pairs["logit_lost"], pairs["prefix_lost"]))
    for name in ("prefix_lost", "logit_lost"):
        assert (pairs[f"{name}_low"] <= pairs[name] + 1e-9).all()
        assert (pairs[name] <= pairs[f"{name}_high"] + 1e-9).all()
    for (_, via), part in pairs.groupby(["reader", "via"]):
        for name in ("composition", "causal"):
            expected = stats.rankdata(-part[name], method="min")
            assert part[f"rank_{name}"].tolist() == expected.tolist(), via
    for _, part in pairs.groupby(["writer", "reader"]):
        assert len(set(part["ablated_lost"])) == 1
    # In two attention-only layers nothing lies between a writer and its reader.
    assert np.allclose(pairs["prefix_lost"], pairs["prefix_lost_direct"], atol=1e-4)


def test_shares_and_their_intervals_are_ratios_of_sums_over_sequences(trained):
    from inductionlens.paths import measure_paths

    model = il.load_model(DATA / "attn-only-2l")
    writers = [Head(0, head) for head in range(4)]
    found = measure_paths(model, _probe(model, 5, 25, True, 0), writers, [Head(1, 0)])
    row = trained.paths("1.0").query("writer == 'L0H2' and via == 'k'").iloc[0]
    ablated = trained.paths("1.0").drop_duplicates("writer").set_index("writer")["ablated_lost"]
    for writer in range(4):
        expected = 1 - found.prefix_ablated[writer, 0].sum() / found.prefix_matching[0].sum()
        assert ablated[f"L0H{writer}"] == pytest.approx(expected, abs=1e-6)
    stays, clean = found.prefix_without["total", "k"][2, 0], found.prefix_matching[0]
    assert row["prefix_lost"] == pytest.approx(1 - stays.sum() / clean.sum(), abs=1e-6)
    ratio = stays.sum() / clean.sum()
    half = 2.7764451 * ((stays - ratio * clean) / clean.mean()).std(ddof=1) / 5**0.5
    assert (row["prefix_lost_low"], row["prefix_lost_high"]) == pytest.approx((1 - ratio - half, 1 - ratio + half))


def test_the_probe_is_what_was_asked_for():
    model = il.load_model("planted")
    probe = _probe(model, 3, 12, True, 5)
    assert probe.tokens.shape == (3, 25)
    assert torch.equal(probe.tokens[:, 1:13], probe.tokens[:, 13:])
    assert (probe.bos, probe.period, probe.repeats, probe.seed) == (0, 12, 2, 5)
    assert not torch.equal(probe.tokens, _probe(model, 3, 12, True, 6).tokens)
    assert (_probe(model, 3, 12, 7, 5).tokens[:, 0] == 7).all()
    assert _probe(model, 3, 12, False, 5).tokens.shape == (3, 24)


def test_heads_carry_their_circuits(trained):
    from inductionlens.composition import measure_k_term, own_token_shares

    model = il.load_model(DATA / "attn-only-2l")
    heads = trained.heads
    scores = il.scan(model)
    assert np.allclose(heads["ov_top5"], own_token_shares(model)[5].ravel())
    previous = scores.table["previous_token"].to_numpy(float).reshape(2, 4)
    assert np.allclose(heads["qk_eigen_trace"], measure_k_term(model, previous).trace.ravel(), equal_nan=True, rtol=0.2)
    assert heads["kind"].tolist() == scores.table["kind"].tolist()
    kinds = dict(zip(scores.table["name"], scores.table["kind"], strict=True))
    for end in ("writer", "reader"):
        assert trained.pairs[f"{end}_kind"].tolist() == [kinds[name] for name in trained.pairs[end]]
    induction = heads[heads["kind"] == "induction"]
    assert (induction[["ov_eigen", "qk_eigen"]] > 0.9).all(axis=None)  # the corner of Elhage et al.
    every = ov_eigenvalues(model)
    assert set(trained.eigenvalues) == set(trained.readers)
    for reader, values in trained.eigenvalues.items():
        assert np.array_equal(values, every[reader.layer, reader.index].numpy())


def test_every_column_is_explained(trained):
    known = COLUMNS | EFFECT_COLUMNS | CIRCUIT_COLUMNS
    orders = il.path_orders("planted", sequences=2, n_windows=2)
    other = il.repeats("planted", sequences=2, distributions=("uniform",))
    terms = qk_expansion("planted", "1.2")
    for table in (trained.pairs, trained.heads, orders, terms, il.skip_trigrams("planted", top=1), other):
        for name in table.columns:
            assert explain(name, known) is not None, name


def test_the_same_seed_gives_the_same_table_and_another_another(scores):
    given = {"scores": scores["pointer"], "sequences": 2}
    first, again, other = (il.circuit("planted-pointer", seed=seed, **given).pairs for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(first, again)
    assert not first["composition"].equals(other["composition"])


def test_tables_are_written_with_their_record_and_pictures_drawn(tmp_path, trained):
    for suffix in ("csv", "parquet", "json"):
        trained.save(tmp_path / f"pairs.{suffix}")
        assert (tmp_path / f"pairs.heads.{suffix}").is_file()
    assert len(pd.read_csv(tmp_path / "pairs.csv")) == 48
    record = json.loads((tmp_path / "pairs.csv.meta.json").read_text())
    assert record["readers"] == ["1.0", "1.3", "1.1", "1.2"]
    assert record["composition"]["queries_and_keys"] == "at every distance alike"
    for suffix in ("png", "svg", "pdf"):
        trained.plot(tmp_path / f"circuit.{suffix}")
        assert (tmp_path / f"circuit.{suffix}").stat().st_size > 5000
    trained.plot(tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "circuit.png").read_bytes()
    drawn = (tmp_path / "circuit.svg").read_text()
    assert "K-composition" in drawn or len(drawn) > 20000  # text may be drawn as paths


def test_rotary_models_say_what_was_left_out():
    config = il.ToyConfig(
        n_layers=2, n_heads=3, d_model=24, d_head=8, d_vocab=48, n_ctx=128, positional_embedding_type="rotary"
    )
    model = il.new_toy(config, seed=1)
    found = il.circuit(model, readers="1.0", sequences=2)
    by_via = found.pairs.groupby("via")["composition"].count()
    assert by_via.to_dict() == {"k": 0, "q": 0, "v": 9}
    assert found.pairs.loc[found.pairs["reader"] == "L1H0", "prefix_matching"].notna().all()
    assert "left out: positions are rotary" in found.provenance["composition"]["queries_and_keys"]
    there = il.circuit(model, readers="1.0", sequences=2, distance=24)
    assert there.pairs["composition"].notna().all()
    upper = found.heads["layer"] == 1
    assert found.heads["qk_eigen"].isna().all()
    assert there.heads.loc[upper, "qk_eigen"].notna().all()
    assert there.provenance["composition"]["queries_and_keys"] == "at distance 24 (rotary)"


# Orders, trigrams, repeats.
def test_orders_add_up_to_the_model():
    table = il.path_orders(DATA / "attn-only-2l", sequences=5, n_windows=5)
    assert table["measure"].unique().tolist() == ["copies", "text"]
    for _, part in table.groupby("measure"):
        part = part.set_index("term")
        orders = part.loc[["order 0", "order 1", "order 2"]]
        assert orders["gain"].sum() == pytest.approx(math.log(256) - orders["loss"].iloc[-1], abs=1e-6)
        for layer in range(2):
            alone, beside = (part.loc[f"layer {layer} {how}"] for how in ("alone", "beside the others"))
            assert alone["gain"] == pytest.approx(orders["loss"].iloc[0] - alone["loss"])
            # With two layers, one beside the other is the other's way to order 1.
            other = part.loc[f"layer {1 - layer} alone", "loss"]
            assert beside["gain"] == pytest.approx(other - orders["loss"].iloc[1], abs=1e-6)
        assert (part["gain_low"] <= part["gain"] + 1e-9).all()
    # An induction head is no virtual head: nearly all of it is there at order 1.
    copies = table[table["measure"] == "copies"].set_index("term")["gain"]
    assert copies["order 1"] > 5 * copies["order 2"]


def test_skip_trigrams_equal_dense_circuits(random_toy):
    found = il.skip_trigrams(random_toy, top=3)
    assert found.groupby("name").size().tolist() == [3, 3, 3]
    w_e, w_u = random_toy.W_E.double(), random_toy.W_U.double()
    read = w_e - w_e.mean(-1, keepdim=True)
    read = read / (read.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
    attn = random_toy.blocks[0].attn
    ids = torch.arange(1, 48)
    for row in found.to_dict("records"):
        head = row["head"]
        source, destination, out = (int(row[name][1:]) for name in ("source", "destination", "out"))
        logits = read[source] @ attn.W_V[head].double() @ attn.W_O[head].double() @ w_u
        assert out == int(logits.argmax())
        assert row["logit"] == pytest.approx(float(logits.max() - logits.mean()), rel=1e-3)
        qk = (read[ids] @ attn.W_Q[head].double()) @ (read[ids] @ attn.W_K[head].double()).T / 8**0.5
        above = qk - qk.mean(1, keepdim=True)
        assert ids[int(above[:, source - 1].argmax())] == destination
        assert row["attention"] == pytest.approx(float(above[:, source - 1].max()), rel=1e-3)
        assert row["copies"] == (out == source)
    strength = (found["attention"] * found["logit"]).to_numpy().reshape(3, 3)
    assert (np.diff(strength, axis=1) <= 1e-9).all()


@pytest.fixture
def padded_rows(gpt2_folder):
    """300 rows of embeddings for 268 tokens, bytes among them; the rows of no token would win every logit."""
    from tokenizers import decoders

    model = il.load_model(gpt2_folder)
    model.tokenizer.backend_tokenizer.decoder = decoders.ByteLevel()
    with torch.no_grad():
        model.unembed.W_U[:, 268:] *= 50
    return model


def test_what_a_skip_trigram_makes_likely_is_a_token(padded_rows):
    ids = named_ids(padded_rows)
    assert ids.tolist() == list(range(268))
    table = il.skip_trigrams(padded_rows, top=30)
    assert table["out_id"].max() < 268
    for row in table.head(5).to_dict("records"):
        circuit = skip_trigrams_of(padded_rows, Head(0, row["head"]), ordinary_ids(padded_rows))
        place = circuit.source.tolist().index(row["source_id"])
        assert (circuit.out[place], circuit.destination[place]) == (row["out_id"], row["destination_id"])
        assert row["copies"] == (row["out_id"] == row["source_id"])
    words = pd.concat([table[[name, f"{name}_id"]].set_axis(["word", "id"], axis=1) for name in WORDS])
    assert words.groupby("id")["word"].nunique().max() == words.groupby("word")["id"].nunique().max() == 1
    assert not words["word"].str.contains("\ufffd").any()
    assert words["word"].str.fullmatch("<0x[0-9A-F]{2}>").any()


def test_tokens_without_a_name_are_no_rivals_of_ones_own(padded_rows):
    """The share of tokens that are among the 20 they raise most counts against tokens alone."""
    w_e, w_u = padded_rows.W_E[:268].double(), padded_rows.W_U[:, :268].double()
    attn = padded_rows.blocks[0].attn
    for head, share in enumerate(own_token_shares(padded_rows, (20,), layers=[0])[20][0]):
        logits = w_e @ attn.W_V[head].double() @ attn.W_O[head].double() @ w_u
        own = (logits.topk(20, dim=1).indices == torch.arange(268)[:, None]).any(1)
        assert share == pytest.approx(float(own.double().mean()), abs=0.005)
        assert share > 0.02


def test_words_tell_tokens_apart():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    def words(pieces, decoder, before):
        made = Tokenizer(models.BPE({piece: index for index, piece in enumerate(pieces)}, [], byte_fallback=True))
        made.decoder, made.pre_tokenizer = decoder, before
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, clean_up_tokenization_spaces=True)
        model = il.planted()
        model.tokenizer = tokenizer
        spell = spelling(model)
        return [spell(index) for index in range(len(pieces) + 1)]

    # An a-umlaut is two bytes; the piece of its first byte alone looks like another letter.
    pieces = ["\u00c3\u00a4", "\u00c3", "\u00a4", "a\u00c3", "\u0120a", "a", "\u0120.", "."]
    assert words(pieces, decoders.ByteLevel(), pre_tokenizers.ByteLevel(add_prefix_space=False)) == [
        "\u00e4", "<0xC3>", "<0xA4>", "a<0xC3>", " a", "a", " .", ".", "#8"
    ]  # fmt: skip
    metaspace = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(),
                                   decoders.Strip(" ", 1, 0)])  # fmt: skip
    pieces = ["\u2581the", "the", "<0x41>", "A", "<0xE4>", "\u2581"]
    assert words(pieces, metaspace, pre_tokenizers.Metaspace()) == [
        " the", "the", "<0x41>", "A", "<0xE4>", " ", "#6"
    ]  # fmt: skip
    assert told_apart({3: "a", 5: "b", 7: "a"}) == {3: "a#3", 5: "b", 7: "a#7"}


def test_blocks_of_rows_change_no_trigram(random_toy, monkeypatch):
    whole = il.skip_trigrams(random_toy, top=4)
    monkeypatch.setattr("inductionlens.trigrams.ENTRIES", 100)
    pd.testing.assert_frame_equal(whole, il.skip_trigrams(random_toy, top=4), rtol=1e-4)


def test_the_one_layer_toy_copies_and_idle_heads_do_not():
    found = il.skip_trigrams(DATA / "attn-only-1l", top=5)
    assert found["copying_head"].all()
    assert found["copies"].all()
    idle = il.skip_trigrams(il.planted("idle"), top=1)
    assert not idle["copying_head"].any()
    assert il.skip_trigrams("planted", heads=["0.2"], top=1)["name"].tolist() == ["L0H2"]


def test_about_one_random_head_in_a_thousand_is_called_copying():
    config = il.ToyConfig(n_layers=1, n_heads=60, d_model=32, d_head=8, d_vocab=60, n_ctx=16)
    assert il.skip_trigrams(il.new_toy(config), top=1)["copying_head"].sum() <= 2


def test_induction_heads_match_whatever_the_tokens_are_and_one_layer_knows_no_order():
    table = il.repeats([DATA / "attn-only-1l", DATA / "attn-only-2l"], sequences=8)
    assert table["tokens"].tolist() == list(DISTRIBUTIONS) * 2
    one, two = (table[table["layers"] == layers] for layers in (1, 2))
    assert two["prefix_matching"].min() > 0.8
    assert two["prefix_matching"].max() - two["prefix_matching"].min() < 0.05
    assert one["order_advantage"].abs().max() < 0.3
    assert two["order_advantage"].min() > 3
    assert len(set(two["head"])) == 1
    assert (two["confidence"] > 5 * one["confidence"].max()).all()


def test_the_head_that_is_followed_is_the_best_on_uniform_tokens(random_toy):
    changed = 0
    for seed in range(4):
        settings = {"period": 6, "sequences": 2, "seed": seed}
        table = il.repeats(random_toy, distributions=("uniform", "zipf"), **settings)
        assert len(set(table["head"])) == 1
        bests = []
        for kind in ("uniform", "zipf"):
            probe = repeated_probe(random_toy, kind, (6, 4, 2), 0, seed)
            found = measure_attention(random_toy, probe, {"prefix_matching": after_copy})[0]["prefix_matching"].value()
            bests.append(Head(*map(int, np.unravel_index(found.argmax(), found.shape))).label)
        assert table["head"].iloc[0] == bests[0]
        with torch.no_grad():  # of zipf tokens, the last probe above
            losses = random_toy(probe.tokens, return_type="loss", loss_per_token=True)
        # Predicted tokens of blocks 2 to 4 without each block's first: 25 tokens, loss i is that of token i + 1.
        later = [at for at in range(7, 25) if (at - 1) % 6]
        sure = losses[:, [at - 1 for at in later]].neg().exp().mean()
        assert table["confidence"].iloc[1] == pytest.approx(float(sure), rel=1e-4)
        changed += bests[0] != bests[1]
    assert changed  # or this test could not tell


def test_repeats_of_the_planted_model_are_known():
    table = il.repeats("planted", distributions=("uniform",), sequences=3).iloc[0]
    assert table["head"] == "L1H2"
    sure = 1 / (1 + 63 * math.exp(-10))
    assert table["confidence"] == pytest.approx(sure, abs=1e-4)
    assert table["advantage"] == pytest.approx(math.log(64) + math.log(sure), abs=1e-3)
    assert table["first_token"] == pytest.approx(1)
    assert table["order_advantage"] > 5


def test_kinds_of_tokens_are_what_they_are_called():
    from inductionlens.studies.repeats import _mixed

    model = il.load_model(DATA / "attn-only-1l")
    probes = {kind: repeated_probe(model, kind, (25, 4, 200), 0, 3) for kind in DISTRIBUTIONS}
    for probe in probes.values():
        blocks = probe.tokens[:, 1:].view(200, 4, 25)
        assert (blocks == blocks[:, :1]).all()
        assert (probe.tokens[:, 0] == 0).all()
    text, shuffled = (probes[kind].tokens[:, 1:26] for kind in ("text", "shuffled"))
    assert torch.equal(text.sort(1).values, shuffled.sort(1).values)
    assert not torch.equal(text, shuffled)
    assert bytes(text[0].tolist()).decode(errors="replace").isprintable() or b"\n" in bytes(text[0].tolist())
    assert all(len(row.unique()) == 25 for row in probes["uniform"].tokens[:, 1:26])
    counts = probes["zipf"].tokens[:, 1:26].flatten().bincount(minlength=256).sort(descending=True).values
    # 1/rank over 235 ids: the first is drawn 1 / H(235) = 16.5% of the time, twice as often as the second.
    assert counts[0] / 5000 == pytest.approx(0.165, abs=0.03)
    assert counts[0] / counts[1] == pytest.approx(2, rel=0.35)
    mixed = _mixed(probes["uniform"], "uniform")
    assert torch.equal(mixed[:, :26], probes["uniform"].tokens[:, :26])
    assert torch.equal(mixed[:, 26:51].sort(1).values, probes["uniform"].tokens[:, 1:26].sort(1).values)
    assert not (mixed[:, 26:51] == probes["uniform"].tokens[:, 1:26]).all(1).any()


# The command line.
def test_circuit_prints_and_writes(tmp_path):
    out, picture = tmp_path / "pairs.csv", tmp_path / "circuit.png"
    more = ("--picture", picture, "--terms", tmp_path / "terms.csv")
    code, printed, err = run("circuit", "planted", "--sequences", 2, "--out", out, *more)
    assert (code, err) == (0, "")
    lines = [line.split() for line in printed.splitlines()]
    assert ["0.1", "->", "1.2", "via", "K", "+0.079", "1", "100%", "100%", "100%", "100%"] in lines
    assert "1.2 reads 0.1 through its keys: 100% of its prefix matching goes with it; of all heads, " in printed
    assert f"27 rows written to {out}" in printed
    assert picture.stat().st_size > 5000
    assert len(pd.read_csv(tmp_path / "pairs.heads.csv")) == 6
    expansion = pd.read_csv(tmp_path / "terms.csv", keep_default_na=False)
    assert len(expansion) == 16
    positive = expansion[expansion["trace"].astype(float) > 0]
    assert positive[["query_writer", "key_writer"]].to_numpy().tolist() == [["", "L0H1"]]
    assert float(positive["eigen"].iloc[0]) == pytest.approx(1)
    il.circuit("planted", sequences=2).save(tmp_path / "again.csv")
    assert out.read_bytes() == (tmp_path / "again.csv").read_bytes()


@pytest.mark.parametrize(
    ("words", "rows", "said"),
    [
        (("orders", "planted", "--sequences", 2, "--windows", 2), 14, "order 0 off a uniform guess"),
        (("trigrams", "planted", "--top", 2), 6, "of 3 heads copy."),
        (("repeats", "planted", "--tokens", "uniform,zipf", "--sequences", 2), 2, "same tokens in another order"),
    ],
)
def test_the_other_commands_print_and_write(tmp_path, words, rows, said):
    out = tmp_path / "table.csv"
    code, printed, err = run(*words, "--out", out)
    assert (code, err) == (0, "")
    assert said in " ".join(printed.split())
    assert f"{rows} rows written to {out}" in printed
    assert len(pd.read_csv(out)) == rows
    assert run(*words, "--quiet")[1:] == ("", "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("circuit", DATA / "attn-only-1l"), "The model has one layer, in which no head reads another"),
        (("circuit", "planted", "--readers", "7.0"), r"There is no head 7.0: the model has 2 layers of 3 heads"),
        (("circuit", "planted", "--readers", "0.1"), "Heads of layer 0 read no other head (0.1)"),
        (("circuit", "planted-idle"), "The scan found no induction head to take apart"),
        (("circuit", "planted", "--readers", "inducton"), "There is no kind 'inducton' of head"),
        (("circuit", "planted", "--period", 2), "period must be at least 3; got 2"),
        (("circuit", "planted", "--period", 100), "too short for two blocks of 100; period=95 fits"),
        (("circuit", "planted", "--sequences", 0), "sequences must be at least 1; got 0"),
        (("circuit", "planted", "--distance", 500), "distance must lie between 0 and 190, inside the context; got 500"),
        (("circuit", "planted", "--out", "pairs.txt"), "The suffix of pairs.txt must be one of .csv"),
        (("circuit", "planted", "--picture", "circuit.bmp"), "The suffix of circuit.bmp must be one of .png"),
        (("circuit", "planted", "--bos", 3, "--no-bos"), "--bos and --no-bos contradict each other"),
        (("orders", "planted", "--measures", "icl"), "measures must be among copies, text; got 'icl'"),
        (("trigrams", "planted", "--head", "1.2"), "Skip trigrams are read off heads of layer 0"),
        (("trigrams", "planted", "--top", 0), "top must be at least 1; got 0"),
        (("repeats", "planted", "--tokens", "poisson"), "distributions must be among uniform, zipf, shuffled, text"),
        (("repeats", "planted"), "64 ids are too few for bytes, which text and shuffled need; leave them out"),
        (("repeats", "planted", "--times", 1), "repeats must be at least 2; got 1"),
        (
            ("repeats", "planted", "--tokens", "uniform", "--period", 60),
            "too short for 4 blocks of 60; period=47 fits; so does repeats=3",
        ),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    code, printed, err = run(*words)
    assert (code, printed) == (2, "")
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_bad_settings_are_refused_in_python(scores):
    with refused("path_orders has no setting 'draws'; it has measures, text"):
        il.path_orders("planted", draws=3)
    with refused("measures must be among copies, text; got none"):
        il.path_orders("planted", measures=())
    with refused("No path into 1.0 was measured; the readers are 1.2"):
        il.circuit("planted", sequences=2, scores=scores["induction"]).paths("1.0")
    with refused("readers must name at least one head"):
        il.circuit("planted", readers=[], scores=scores["induction"])

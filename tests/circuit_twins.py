"""Circuits a second time, in slow plain loops and float64.

Written from the metrics specification alone; the section in each docstring is a section of that specification.
Weights are a dict of arrays under HookedTransformer's names, as in `ablation_twins`: a norm is applied where its `w`
and `b` are in the dict, an MLP where its `W_in` is. A head is the pair (layer, head), and grouped-query weights come
expanded to query heads. Vectors are rows. An undefined number is NaN.
"""

import math

import ablation_twins
import numpy

NAN = float("nan")
EPS = 1e-5


def _factor(weights, name, head):
    """W_Q, W_K, W_V, W_O (or a bias) of one head in float64."""
    return numpy.asarray(weights[f"blocks.{head[0]}.attn.{name}"][head[1]], dtype=numpy.float64)


def _ov(weights, head):
    """W_V W_O, [d_model, d_model]."""
    return _factor(weights, "W_V", head) @ _factor(weights, "W_O", head)


def _qk(weights, head):
    """W_Q W_K^T, [d_model, d_model]: the query's residual stream on the left, the key's on the right."""
    return _factor(weights, "W_Q", head) @ _factor(weights, "W_K", head).T


def _embedding(weights):
    return numpy.asarray(weights["embed.W_E"], dtype=numpy.float64)


def _unembedding(weights):
    return numpy.asarray(weights["unembed.W_U"], dtype=numpy.float64)


def _frobenius(matrix):
    total = 0.0
    for row in matrix:
        for entry in row:
            total += float(entry) ** 2
    return math.sqrt(total)


def _ratio(left, right):
    """|left right| / (|left| |right|), Frobenius norms; NaN where either matrix is zero."""
    below = _frobenius(left) * _frobenius(right)
    return _frobenius(left @ right) / below if below > 0.0 else NAN


def composition(weights, n_layers, n_heads):
    """Section 12: {(writer, reader): (q, k, v)}, raw ratios, for every writer in an earlier layer than its reader."""
    ratios = {}
    for writer_layer in range(n_layers):
        for reader_layer in range(writer_layer + 1, n_layers):
            for w in range(n_heads):
                for r in range(n_heads):
                    writer, reader = (writer_layer, w), (reader_layer, r)
                    left = _ov(weights, writer)
                    query = _ratio(left, _qk(weights, reader))
                    key = _ratio(left, _qk(weights, reader).T)
                    value = _ratio(left, _ov(weights, reader))
                    ratios[writer, reader] = (query, key, value)
    return ratios


def random_composition(d_model, d_head, draws, seed):
    """Section 12's chance level: mean and sd (ddof 1) over draws of the raw ratio of two Gaussian products."""
    generator = numpy.random.default_rng(seed)
    ratios = []
    for _ in range(draws):
        left = generator.standard_normal((d_model, d_head)) @ generator.standard_normal((d_head, d_model))
        right = generator.standard_normal((d_model, d_head)) @ generator.standard_normal((d_head, d_model))
        ratios.append(_ratio(left, right))
    mean = sum(ratios) / draws if draws > 0 else NAN
    if draws < 2:
        return mean, NAN
    return mean, math.sqrt(sum((ratio - mean) ** 2 for ratio in ratios) / (draws - 1))


def qk_eigen_trace(weights, n_layers, n_heads, p):
    """Section 11: {head: sum over earlier heads e of p[e] trace(W_Q W_K^T (W_V[e] W_O[e])^T W_E^T W_E)}.

    NaN for the heads of layer 0, which have no earlier head.
    """
    gram = _embedding(weights).T @ _embedding(weights)
    scores = {}
    for layer in range(n_layers):
        for h in range(n_heads):
            total = 0.0 if layer > 0 else NAN
            for earlier in range(layer):
                for e in range(n_heads):
                    through = _qk(weights, (layer, h)) @ _ov(weights, (earlier, e)).T @ gram
                    trace = 0.0
                    for i in range(len(through)):
                        trace += float(through[i][i])
                    total += float(p[earlier, e]) * trace
            scores[layer, h] = total
    return scores


def own_token_share(w_e, w_v, w_o, w_u, k):
    """Section 10's top-k alternative: how often a token is among the k that it raises most.

    A token is in where fewer than k entries of its row of W_E W_V W_O W_U are strictly larger than its own.
    """
    factors = [numpy.asarray(factor, dtype=numpy.float64) for factor in (w_e, w_v, w_o, w_u)]
    logits = factors[0] @ factors[1] @ factors[2] @ factors[3]
    inside, count = 0, 0
    for a in range(len(logits)):
        larger = 0
        for b in range(len(logits[a])):
            if logits[a][b] > logits[a][a]:
                larger += 1
        inside += int(larger < k)
        count += 1
    return inside / count if count else NAN


def qk_term(weights, reader, query_writer=None, key_writer=None):
    """Section 18: one QK term of `reader`, [token at the query end, token at the key end].

    A writer's W_V W_O stands between the embedding and the reader on its side; without a writer the embedding is read
    directly. No 1/sqrt(d_head) and no biases.
    """
    at_query, at_key = _embedding(weights), _embedding(weights)
    if query_writer is not None:
        at_query = at_query @ _ov(weights, query_writer)
    if key_writer is not None:
        at_key = at_key @ _ov(weights, key_writer)
    return at_query @ _qk(weights, reader) @ at_key.T


def virtual_ov(weights, writer, reader):
    """Section 18: the virtual head W_E OV_writer OV_reader W_U, [token read, token whose logit it moves]."""
    return _embedding(weights) @ _ov(weights, writer) @ _ov(weights, reader) @ _unembedding(weights)


def eigen_score(matrix):
    """Section 10: Re(sum of eigenvalues) / sum of their moduli, -1..1; NaN where all eigenvalues are 0."""
    above, below = 0.0, 0.0
    for eigenvalue in numpy.linalg.eigvals(numpy.asarray(matrix, dtype=numpy.float64)):
        above += float(eigenvalue.real)
        below += float(abs(eigenvalue))
    return above / below if below > 0.0 else NAN


def _projected(rows, weights, name, head):
    """The queries ("Q"), keys ("K") or values ("V") of a head from its normed input, bias included."""
    weight, bias = _factor(weights, f"W_{name}", head), _factor(weights, f"b_{name}", head)
    return [numpy.dot(row, weight) + bias for row in rows]


def _mixed(pattern, values):
    """z[q] = sum over k of pattern[q][k] values[k]."""
    z = []
    for q in range(len(pattern)):
        total = numpy.zeros(len(values[q]))
        for k in range(len(values)):
            total = total + float(pattern[q][k]) * values[k]
        z.append(total)
    return z


def _stream(weights, tokens, n_layers, n_heads, patterns, added=None):
    """One pass with the given patterns, each head computing its z from what it reads in this pass.

    `added[layer, head]` is the z written in its stead, None for nothing; without `added` every head writes its own.
    b_O, norms and MLPs are always live. Gives `z[layer, head]` as computed, `inputs[layer]` (the residual stream the
    layer's heads read) and `final` (the residual stream before the final norm).
    """
    weights = ablation_twins._float64(weights)
    length = len(tokens)
    residual = [weights["embed.W_E"][int(tokens[i])] + weights["pos_embed.W_pos"][i] for i in range(length)]
    inputs, all_z = [], {}
    for layer in range(n_layers):
        inputs.append(residual)
        normed = [ablation_twins._normed(row, weights, f"blocks.{layer}.ln1") for row in residual]
        after = [row + weights[f"blocks.{layer}.attn.b_O"] for row in residual]
        for h in range(n_heads):
            z = _mixed(patterns[layer][h], _projected(normed, weights, "V", (layer, h)))
            written = z if added is None else added[layer, h]
            if written is not None:
                for i in range(length):
                    after[i] = after[i] + numpy.dot(written[i], _factor(weights, "W_O", (layer, h)))
            all_z[layer, h] = z
        mlp = f"blocks.{layer}.mlp"
        if f"{mlp}.W_in" in weights:
            for i in range(length):
                row = ablation_twins._normed(after[i], weights, f"blocks.{layer}.ln2")
                hidden = numpy.dot(row, weights[f"{mlp}.W_in"]) + weights[f"{mlp}.b_in"]
                active = numpy.array([ablation_twins._gelu(float(number)) for number in hidden])
                after[i] = after[i] + numpy.dot(active, weights[f"{mlp}.W_out"]) + weights[f"{mlp}.b_out"]
        residual = after
    return {"z": all_z, "inputs": inputs, "final": residual}


def _losses(weights, tokens, final):
    """-log p(tokens[i + 1] | tokens[0..i]) for every i from the residual stream before the final norm."""
    weights = ablation_twins._float64(weights)
    losses = []
    for i in range(len(tokens) - 1):
        row = ablation_twins._normed(final[i], weights, "ln_final")
        logits = numpy.dot(row, weights["unembed.W_U"]) + weights["unembed.b_U"]
        losses.append(ablation_twins._loss(logits, int(tokens[i + 1])))
    return losses


def without_path(weights, tokens, n_layers, n_heads, writer, reader, via):
    """The reader's (pattern[q][k], values[k]) when its query, key or value input lacks what the writer wrote.

    Everything is the clean run but that one input, norm(residual - z W_O of the writer): the direct path only (no
    b_O), taken away at every position, the norm computed anew. `via` is "q", "k" or "v".
    """
    if via not in ("q", "k", "v"):
        raise ValueError(f"via must be 'q', 'k' or 'v'; got {via!r}.")
    if not writer[0] < reader[0]:
        raise ValueError(f"the writer must be in an earlier layer than the reader; got {writer} and {reader}.")
    weights = ablation_twins._float64(weights)
    patterns = ablation_twins.run(weights, tokens)["patterns"]
    clean = _stream(weights, tokens, n_layers, n_heads, patterns)
    sides = {}
    for side in ("q", "k", "v"):
        rows = []
        for i in range(len(tokens)):
            row = clean["inputs"][reader[0]][i]
            if side == via:
                row = row - numpy.dot(clean["z"][tuple(writer)][i], _factor(weights, "W_O", writer))
            rows.append(ablation_twins._normed(row, weights, f"blocks.{reader[0]}.ln1"))
        sides[side] = _projected(rows, weights, side.upper(), reader)
    return ablation_twins._causal_pattern(sides["q"], sides["k"]), sides["v"]


def induction_logit_of(weights, tokens, n_layers, n_heads, period, reader, pattern, values):
    """Section 9 for one sequence [BOS, r, r] with |r| = period, from the reader's given pattern and values.

    Mean over q = period + 1 .. 2 period - 1, with s = q - period + 1, of pattern[q][s] values[s] W_O U_c[:, tokens[s]]
    over the clean run's final-norm scale at q (1 without a final norm, whose gains are taken to be folded).
    """
    if len(tokens) != 2 * period + 1:
        raise ValueError(f"tokens must be BOS and 2 blocks of {period}; got {len(tokens)} tokens.")
    patterns = ablation_twins.run(weights, tokens)["patterns"]
    final = _stream(weights, tokens, n_layers, n_heads, patterns)["final"]
    unembedding = _unembedding(weights)
    d_vocab = len(unembedding[0])
    total, count = 0.0, 0
    for q in range(period + 1, 2 * period):
        s = q - period + 1
        written = numpy.dot(numpy.asarray(values[s], dtype=numpy.float64), _factor(weights, "W_O", reader))
        logits = [float(numpy.dot(written, unembedding[:, token])) for token in range(d_vocab)]
        centred = logits[int(tokens[s])] - sum(logits) / d_vocab
        scale = 1.0
        if "ln_final.w" in weights:
            mean = sum(float(entry) for entry in final[q]) / len(final[q])
            scale = math.sqrt(sum((float(entry) - mean) ** 2 for entry in final[q]) / len(final[q]) + EPS)
        total += float(pattern[q][s]) * centred / scale
        count += 1
    return total / count if count else NAN


def order_losses(weights, tokens, n_layers, n_heads, highest):
    """Section 18's algorithm: per-token losses with paths through at most 0, 1, .. `highest` heads, one list each.

    Every run holds the clean patterns. The run of order 0 adds no head's z; the run of order n adds the z that each
    head computed in the run of order n - 1. b_O, norms and MLPs are live in every run.
    """
    patterns = ablation_twins.run(weights, tokens)["patterns"]
    added = {(layer, h): None for layer in range(n_layers) for h in range(n_heads)}
    losses = []
    for _ in range(highest + 1):
        here = _stream(weights, tokens, n_layers, n_heads, patterns, added)
        losses.append(_losses(weights, tokens, here["final"]))
        added = here["z"]
    return losses


def _paths(n_layers, n_heads, highest):
    """Every tuple of 1 to `highest` heads with strictly increasing layers."""
    paths, ends = [], [()]
    for _ in range(highest):
        longer = []
        for path in ends:
            for layer in range(path[-1][0] + 1 if path else 0, n_layers):
                for h in range(n_heads):
                    longer.append((*path, (layer, h)))
        paths.extend(longer)
        ends = longer
    return paths


def path_losses(weights, tokens, n_layers, n_heads, highest):
    """`order_losses` by an explicit sum over paths, for attention-only models whose heads read without norms.

    With the clean patterns a head is the affine map x -> A x OV + A 1 b_V W_O. The constant inputs are the embedding
    and every b_O; the heads h1, .., hn of a path add OV_hn A_hn .. applied to what h1 gives for the constant inputs of
    its layer. A path's b_V enters at its first head only: further on it is the first head of a shorter path.
    """
    for layer in range(n_layers):
        for name in (f"blocks.{layer}.ln1.w", f"blocks.{layer}.mlp.W_in"):
            if name in weights:
                raise ValueError(f"paths can be summed only without norms and MLPs; the weights have {name}.")
    weights = ablation_twins._float64(weights)
    length = len(tokens)
    clean = ablation_twins.run(weights, tokens)["patterns"]
    attention = {(layer, h): numpy.array(clean[layer][h]) for layer in range(n_layers) for h in range(n_heads)}
    constant = [weights["embed.W_E"][[int(token) for token in tokens]] + weights["pos_embed.W_pos"][:length]]
    for layer in range(n_layers):
        constant.append(constant[-1] + weights[f"blocks.{layer}.attn.b_O"])
    written = {}
    for path in _paths(n_layers, n_heads, highest):
        first = path[0]
        flow = attention[first] @ constant[first[0]] @ _ov(weights, first)
        flow = flow + attention[first] @ numpy.ones((length, 1)) @ (
            _factor(weights, "b_V", first)[None, :] @ _factor(weights, "W_O", first)
        )
        for head in path[1:]:
            flow = attention[head] @ flow @ _ov(weights, head)
        written[path] = flow
    losses = []
    for order in range(highest + 1):
        final = constant[n_layers]
        for path, flow in written.items():
            if len(path) <= order:
                final = final + flow
        losses.append(_losses(weights, tokens, final))
    return losses


def layer_losses(weights, tokens, n_layers, n_heads, layers):
    """Section 18's layers alone: per-token losses when only the heads of `layers` add their z of the run of order 0.

    Every other head adds zero, and the patterns are the clean ones.
    """
    patterns = ablation_twins.run(weights, tokens)["patterns"]
    nothing = {(layer, h): None for layer in range(n_layers) for h in range(n_heads)}
    saved = _stream(weights, tokens, n_layers, n_heads, patterns, nothing)["z"]
    added = {head: saved[head] if head[0] in layers else None for head in nothing}
    return _losses(weights, tokens, _stream(weights, tokens, n_layers, n_heads, patterns, added)["final"])

"""A small transformer, its ablations and two loss curves a second time, in slow plain loops and float64.

Written from the metrics specification alone; the section in each docstring is a section of that specification.
Weights are a dict of arrays under HookedTransformer's names; a norm is applied where its `w` and `b` are in the dict,
an MLP where its `W_in` is. A head is the pair (layer, head); a sequence is a list of token ids, taken as it is (BOS
included where the list has one). A number with nothing to average or to fit is NaN.
"""

import math

import numpy

NAN = float("nan")
EPS = 1e-5


def _float64(weights):
    """The same weights, every array in float64."""
    return {name: numpy.asarray(array, dtype=numpy.float64) for name, array in weights.items()}


def _normed(row, weights, name):
    """LayerNorm of one residual vector with the weights called `name`; the vector itself where there are none."""
    if f"{name}.w" not in weights:
        return row
    mean, variance = 0.0, 0.0
    for entry in row:
        mean += entry / len(row)
    for entry in row:
        variance += (entry - mean) ** 2 / len(row)
    scale = math.sqrt(variance + EPS)
    out = numpy.zeros(len(row))
    for i in range(len(row)):
        out[i] = (row[i] - mean) / scale * weights[f"{name}.w"][i] + weights[f"{name}.b"][i]
    return out


def _gelu(number):
    return 0.5 * number * (1.0 + math.erf(number / math.sqrt(2.0)))


def _causal_pattern(queries, keys):
    """Softmax over k <= q of the scores q . k / sqrt(d_head), zero at every later key."""
    pattern = []
    for q in range(len(queries)):
        scores = [float(numpy.dot(queries[q], keys[k])) / math.sqrt(len(keys[k])) for k in range(q + 1)]
        top = max(scores)
        total = sum(math.exp(score - top) for score in scores)
        pattern.append([math.exp(score - top) / total for score in scores] + [0.0] * (len(queries) - q - 1))
    return pattern


def _loss(logits, token):
    """-log p(token), in nats."""
    top = float(max(logits))
    return top + math.log(sum(math.exp(float(logit) - top) for logit in logits)) - float(logits[token])


def run(weights, tokens, z_edit=None, patterns=None):
    """One forward pass over one sequence, with heads' z (section 13: before W_O, b_O untouched) or patterns replaced.

    `z_edit` maps (layer, head) to the z that head has at every position; `patterns[layer][head][query][key]` stands in
    for every softmax, while the values are recomputed. Gives `z[layer][head][pos]`, `patterns` as above,
    `attn_out[layer][pos]` and `losses[i]` = -log p(tokens[i + 1] | tokens[0..i]); z and patterns are those used.
    """
    weights, z_edit = _float64(weights), dict(z_edit or {})
    length = len(tokens)
    residual = [weights["embed.W_E"][int(tokens[p])] + weights["pos_embed.W_pos"][p] for p in range(length)]
    all_z, all_patterns, all_attn_out = [], [], []
    layer = 0
    while f"blocks.{layer}.attn.W_Q" in weights:
        attn = f"blocks.{layer}.attn"
        normed = [_normed(row, weights, f"blocks.{layer}.ln1") for row in residual]
        z_here, patterns_here = [], []
        attn_out = [weights[f"{attn}.b_O"].copy() for _ in range(length)]
        for h in range(len(weights[f"{attn}.W_Q"])):
            values = [numpy.dot(row, weights[f"{attn}.W_V"][h]) + weights[f"{attn}.b_V"][h] for row in normed]
            if patterns is None:
                queries = [numpy.dot(row, weights[f"{attn}.W_Q"][h]) + weights[f"{attn}.b_Q"][h] for row in normed]
                keys = [numpy.dot(row, weights[f"{attn}.W_K"][h]) + weights[f"{attn}.b_K"][h] for row in normed]
                pattern = _causal_pattern(queries, keys)
            else:
                pattern = [[float(patterns[layer][h][q][k]) for k in range(length)] for q in range(length)]
            if (layer, h) in z_edit:
                z = [numpy.array(vector, dtype=numpy.float64) for vector in z_edit.pop((layer, h))]
                if len(z) != length or any(vector.shape != values[0].shape for vector in z):
                    raise ValueError(f"z_edit[{layer}, {h}] must hold {length} vectors of {len(values[0])}.")
            else:
                z = []
                for q in range(length):
                    mixed = numpy.zeros(len(values[q]))
                    for k in range(length):
                        mixed = mixed + pattern[q][k] * values[k]
                    z.append(mixed)
            for p in range(length):
                attn_out[p] = attn_out[p] + numpy.dot(z[p], weights[f"{attn}.W_O"][h])
            z_here.append(z)
            patterns_here.append(pattern)
        residual = [residual[p] + attn_out[p] for p in range(length)]
        mlp = f"blocks.{layer}.mlp"
        if f"{mlp}.W_in" in weights:
            for p in range(length):
                row = _normed(residual[p], weights, f"blocks.{layer}.ln2")
                hidden = numpy.dot(row, weights[f"{mlp}.W_in"]) + weights[f"{mlp}.b_in"]
                active = numpy.array([_gelu(float(number)) for number in hidden])
                residual[p] = residual[p] + numpy.dot(active, weights[f"{mlp}.W_out"]) + weights[f"{mlp}.b_out"]
        all_z.append(z_here)
        all_patterns.append(patterns_here)
        all_attn_out.append(attn_out)
        layer += 1
    if z_edit:
        raise ValueError(f"there is no head {sorted(z_edit)} in this model.")
    losses = []
    for i in range(length - 1):
        final = _normed(residual[i], weights, "ln_final")
        logits = numpy.dot(final, weights["unembed.W_U"]) + weights["unembed.b_U"]
        losses.append(_loss(logits, int(tokens[i + 1])))
    return {"z": all_z, "patterns": all_patterns, "attn_out": all_attn_out, "losses": losses}


def _ablated(weights, tokens, z_edit, hold_patterns):
    """Losses with the edited z; held patterns are those of the clean run on the same tokens, every layer and head."""
    patterns = run(weights, tokens)["patterns"] if hold_patterns else None
    return run(weights, tokens, z_edit=z_edit, patterns=patterns)["losses"]


def zero_ablated(weights, tokens, heads, hold_patterns):
    """Section 13, zero: losses with z = 0 at every position for all `heads` at once."""
    z_edit = {}
    for layer, h in heads:
        d_head = len(weights[f"blocks.{layer}.attn.W_O"][h])
        z_edit[layer, h] = [numpy.zeros(d_head) for _ in tokens]
    return _ablated(weights, tokens, z_edit, hold_patterns)


def mean_ablated(weights, tokens, heads, mean_tokens, hold_patterns):
    """Section 13, mean: z = the head's mean over all positions of all sequences in `mean_tokens`, run clean.

    One vector for every position. Each position of each sequence counts once, the first (BOS) included, so a longer
    sequence weighs more.
    """
    references = [run(weights, sequence)["z"] for sequence in mean_tokens]
    z_edit = {}
    for layer, h in heads:
        total, count = numpy.zeros(len(weights[f"blocks.{layer}.attn.W_O"][h])), 0
        for z in references:
            for vector in z[layer][h]:
                total = total + vector
                count += 1
        mean = total / count if count else total + NAN
        z_edit[layer, h] = [mean for _ in tokens]
    return _ablated(weights, tokens, z_edit, hold_patterns)


def resample_ablated(weights, tokens, heads, other_tokens, hold_patterns):
    """Section 13, resample: z at position p = the head's z at p in a clean run on `other_tokens`, equally long.

    Held patterns are still those of the clean run on `tokens`.
    """
    if len(other_tokens) != len(tokens):
        raise ValueError(f"other_tokens has length {len(other_tokens)}, tokens {len(tokens)}.")
    other = run(weights, other_tokens)["z"]
    z_edit = {(layer, h): other[layer][h] for layer, h in heads}
    return _ablated(weights, tokens, z_edit, hold_patterns)


def icl_score(losses_per_example, late=500, early=50):
    """Section 14: mean over examples of loss[late] - loss[early], 0-based; negative = more in-context learning."""
    total, count = 0.0, 0
    for losses in losses_per_example:
        total += float(losses[late]) - float(losses[early])
        count += 1
    return total / count if count else NAN


def _slope(indices, losses):
    """Least-squares slope of loss on ln i; NaN with fewer than two indices."""
    if len(indices) < 2:
        return NAN
    mean_x = sum(math.log(i) for i in indices) / len(indices)
    mean_y = sum(float(losses[i]) for i in indices) / len(indices)
    covariance, variance = 0.0, 0.0
    for i in indices:
        covariance += (math.log(i) - mean_x) * (float(losses[i]) - mean_y)
        variance += (math.log(i) - mean_x) ** 2
    return covariance / variance


def loss_derivative(mean_losses_by_index, bins=20):
    """Section 16: least-squares slope of loss on ln i per bin, as a list of (first_index, last_index, slope).

    `bins` counts the log-spaced EDGES, as section 16 does ("20 log-spaced bin edges"), first 1 and last n = len - 1, so
    at most `bins - 1` bins. Edges e_0 < e_1 < ... after rounding to integers and dropping repeats: bin j holds the
    indices e_j <= i < e_(j+1), and the last bin also holds n. Index 0 is in no bin; each of 1..n is in exactly one;
    first_index and last_index are both in the bin. From the left, a bin with fewer than 2 indices takes in the bin to
    its right, and the union is counted anew; a last bin still too small joins the one to its left.
    """
    if bins < 2:
        raise ValueError(f"bins counts edges and must be at least 2; got {bins}.")
    last = len(mean_losses_by_index) - 1
    if last < 1:
        return []
    edges = []
    for j in range(bins):
        edge = round(math.exp(math.log(last) * j / (bins - 1)))
        if edge not in edges:
            edges.append(edge)
    members = [list(range(edges[j], edges[j + 1])) for j in range(len(edges) - 1)]
    if members:
        members[-1].append(last)
    else:
        members = [[last]]
    merged, waiting = [], []
    for indices in members:
        waiting = waiting + indices
        if len(waiting) >= 2:
            merged.append(waiting)
            waiting = []
    if waiting and merged:
        merged[-1] = merged[-1] + waiting
    elif waiting:
        merged.append(waiting)
    return [(indices[0], indices[-1], _slope(indices, mean_losses_by_index)) for indices in merged]


def gradient_attribution(weights, tokens, head, value):
    """First-order estimate of zero-ablating `head`: sum over positions and dims of (0 - z) d value(losses) / d z.

    Central differences with step 1e-5 on one component of the clean z at a time; later patterns are recomputed, so
    this estimates the change of `value` under a full zero (section 13), ablated minus clean.
    """
    step = 1e-5
    clean = run(weights, tokens)["z"][head[0]][head[1]]
    total = 0.0
    for p in range(len(tokens)):
        for i in range(len(clean[p])):
            sides = []
            for sign in (1.0, -1.0):
                z = [vector.copy() for vector in clean]
                z[p][i] += sign * step
                sides.append(float(value(run(weights, tokens, z_edit={tuple(head): z})["losses"])))
            total += (0.0 - float(clean[p][i])) * (sides[0] - sides[1]) / (2.0 * step)
    return total

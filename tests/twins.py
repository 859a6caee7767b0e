"""Every head score a second time, in slow plain loops.

Written from the metrics specification alone; the section in each docstring is a section of that specification.
One sequence is `pattern[head][query][key]` with `tokens[position]`; `bos` is the id of BOS, or None without one.
A score with nothing to average is NaN.
"""

import math

import numpy

NAN = float("nan")


def _mean(numbers):
    """Plain mean; NaN when there is nothing to average (section 1: undefined is NaN, never 0)."""
    total, count = 0.0, 0
    for number in numbers:
        total += number
        count += 1
    return total / count if count else NAN


def _is_bos(token, bos):
    return bos is not None and int(token) == int(bos)


def _dot(left, right):
    total = 0.0
    for i in range(len(left)):
        total += float(left[i]) * float(right[i])
    return total


def _row_times_matrix(row, matrix):
    """`row @ matrix`: section 1 keeps vectors as rows."""
    out = [0.0] * len(matrix[0])
    for i in range(len(row)):
        for j in range(len(out)):
            out[j] += float(row[i]) * float(matrix[i][j])
    return out


def _unembedding_columns(w_u, centred):
    """U_c = W_U minus its mean over the vocabulary (section 8), given back as one d_model list per token."""
    d_model, d_vocab = len(w_u), len(w_u[0])
    columns = [[0.0] * d_model for _ in range(d_vocab)]
    for i in range(d_model):
        centre = _mean(float(w_u[i][t]) for t in range(d_vocab)) if centred else 0.0
        for t in range(d_vocab):
            columns[t][i] = float(w_u[i][t]) - centre
    return columns


def _sum_over_keys(pattern, keys_of):
    """Per head, mean over the queries with at least one key of the attention summed over the query's keys."""
    scores = []
    for head in range(len(pattern)):
        per_query = []
        for q in range(len(pattern[head])):
            if keys_of[q]:
                per_query.append(sum(float(pattern[head][q][k]) for k in keys_of[q]))
        scores.append(_mean(per_query))
    return scores


def prefix_matching(pattern, tokens, bos, reduce="sum"):
    """Section 4: mean over q of sum over k of A[q, k], K(q) = {k : t_(k-1) = t_q, k-1 < q, k-1 not BOS}."""
    keys_of = []
    for q in range(len(tokens)):
        keys = []
        for k in range(1, len(tokens)):
            if tokens[k - 1] == tokens[q] and k - 1 < q and not _is_bos(tokens[k - 1], bos):
                keys.append(k)
        keys_of.append(keys)
    if reduce == "sum":
        return _sum_over_keys(pattern, keys_of)
    if reduce == "last":
        return _sum_over_keys(pattern, [keys[-1:] for keys in keys_of])
    if reduce == "first":
        return _sum_over_keys(pattern, [keys[:1] for keys in keys_of])
    if reduce == "entry_mean":
        entries = [(q, k) for q in range(len(tokens)) for k in keys_of[q]]
        return [_mean(float(head[q][k]) for q, k in entries) for head in pattern]
    raise ValueError(f"reduce must be 'sum', 'last', 'first' or 'entry_mean'; got {reduce!r}.")


def prefix_matching_literal(pattern, tokens, bos):
    """Section 5: mean over q of sum over k of A[q, k], K(q) = {k : t_(k+1) = t_q, k+1 < q, k not BOS}."""
    keys_of = []
    for q in range(len(tokens)):
        keys = []
        for k in range(len(tokens) - 1):
            copy_counts = tokens[k + 1] == tokens[q] and k + 1 < q and not _is_bos(tokens[k + 1], bos)
            if copy_counts and not _is_bos(tokens[k], bos):
                keys.append(k)
        keys_of.append(keys)
    return _sum_over_keys(pattern, keys_of)


def duplicate_token(pattern, tokens, bos):
    """Section 6: mean over q of sum over k of A[q, k], K(q) = {k : t_k = t_q, k < q}, k not BOS."""
    keys_of = []
    for q in range(len(tokens)):
        keys_of.append([k for k in range(q) if tokens[k] == tokens[q] and not _is_bos(tokens[k], bos)])
    return _sum_over_keys(pattern, keys_of)


def previous_token(pattern, tokens, bos):
    """Section 7: mean over i >= 1 of A[i, i-1], whatever the tokens are."""
    return [_mean(float(head[i][i - 1]) for i in range(1, len(tokens))) for head in pattern]


def first_token(pattern, tokens, bos):
    """Section 18 (no match: rests on the first token): mean of A[q, 0] over q >= 1 with no p < q, t_p = t_q not BOS."""
    queries = []
    for q in range(1, len(tokens)):
        copies = [p for p in range(q) if tokens[p] == tokens[q] and not _is_bos(tokens[p], bos)]
        if not copies:
            queries.append(q)
    return [_mean(float(head[q][0]) for q in queries) for head in pattern]


def diagonal(pattern, distance):
    """Section 4, diagonal at offset -distance: mean over all q >= distance of A[q, q - distance]."""
    return [_mean(float(head[q][q - distance]) for q in range(distance, len(head))) for head in pattern]


def offset(pattern, tokens, bos, d):
    """Section 5.1: mean over q of sum over k of A[q, k], k = p + d, p < q, t_p = t_q, 0 <= k <= q, k and p not BOS."""
    keys_of = []
    for q in range(len(tokens)):
        keys = []
        for p in range(q):
            if tokens[p] == tokens[q] and not _is_bos(tokens[p], bos):
                k = p + d
                if 0 <= k <= q and not _is_bos(tokens[k], bos):
                    keys.append(k)
        keys_of.append(keys)
    return _sum_over_keys(pattern, keys_of)


def value_weighted(pattern, values):
    """Sections 18 and 21: A[q, k] |v_k| / sum over k' of A[q, k'] |v_k'|; a row without any weight is NaN."""
    weighted = []
    for head in range(len(pattern)):
        rows = []
        for q in range(len(pattern[head])):
            row = []
            for k in range(len(pattern[head][q])):
                norm = math.sqrt(_dot(values[head][k], values[head][k]))
                row.append(float(pattern[head][q][k]) * norm)
            total = sum(row)
            rows.append([entry / total if total else NAN for entry in row])
        weighted.append(rows)
    return weighted


def _rises(pattern, values, w_o, columns, tokens, first, source):
    """Section 8, one head, one sequence: per source k, (w[k], sum of A relu(D) at k, sum of A relu(D) at j != k)."""
    length = len(tokens)
    outputs = []
    for q in range(length):
        if source == "value":
            outputs.append(_row_times_matrix(values[q], w_o))
        else:
            z = [0.0] * len(values[0])
            for k in range(length):
                for i in range(len(z)):
                    z[i] += float(pattern[q][k]) * float(values[k][i])
            outputs.append(_row_times_matrix(z, w_o))
    relu_d = [[max(0.0, _dot(outputs[i], columns[int(tokens[j])])) for j in range(length)] for i in range(length)]
    rises = []
    for k in range(first, length):
        weight, own, others = 0.0, 0.0, 0.0
        for q in range(k, length):
            attention = float(pattern[q][k])
            row = relu_d[k] if source == "value" else relu_d[q]
            weight += attention
            own += attention * row[k]
            for j in range(first, length):
                if j != k:
                    others += attention * row[j]
        rises.append((weight, own, others))
    return rises


def _bansal_ratios(pattern, values, w_o, columns, tokens, first):
    """Section 8, Bansal: softmax, minus the mean over attendable, relu, ratio at the arg-max-attended key, else 0."""
    ratios = []
    for q in range(first, len(tokens)):
        output = _row_times_matrix(values[q], w_o)
        logits = [_dot(output, column) for column in columns]
        top = max(logits)
        partition = sum(math.exp(logit - top) for logit in logits)
        probabilities = [math.exp(logits[int(tokens[k])] - top) / partition for k in range(q + 1)]
        centre = _mean(probabilities)
        if max(probabilities) == min(probabilities):
            centre = probabilities[0]  # Equal entries rise by exactly 0; the mean above may be off by a rounding.
        rises = [max(0.0, probability - centre) for probability in probabilities]
        attended = 0
        for k in range(q + 1):
            if pattern[q][k] > pattern[q][attended]:
                attended = k
        ratios.append(rises[attended] / sum(rises) if sum(rises) > 0 else 0.0)
    return ratios


def copying(patterns, values, w_o, w_u, tokens_batch, first, normalization, source):
    """Section 8: (a - m) / (a + m), a = sum of w Z[k, k], m = sum of w / (n-1) sum over j != k of Z[k, j], Z = relu(D).

    With S = sum over all j including k: share = 2a/S - 1, olsson_literal = 4a/(a+S) - 1. contrast_per_token divides
    at each source and then averages with weight w. D[k, j] = v[k] W_O U_c[:, s_j] for source 'value'; 'head_output'
    has D[q, j] = z[q] W_O U_c[:, s_j] and A[q, k] relu(D[q, k]) in place of w Z[k, k].
    """
    if source not in ("value", "head_output") or (source, normalization) == ("head_output", "bansal"):
        raise ValueError(f"source {source!r} is not defined with normalization {normalization!r}.")
    columns = _unembedding_columns(w_u, centred=True)
    scores = []
    for h in range(len(w_o)):
        if normalization == "bansal":
            ratios = []
            for b in range(len(tokens_batch)):
                ratios += _bansal_ratios(patterns[b][h], values[b][h], w_o[h], columns, tokens_batch[b], first)
            scores.append(_mean(ratios))
            continue
        a, m, s, weighted_ratios, weights = 0.0, 0.0, 0.0, 0.0, 0.0
        for b in range(len(tokens_batch)):
            n_others = len(tokens_batch[b]) - first - 1
            for weight, own, others in _rises(
                patterns[b][h], values[b][h], w_o[h], columns, tokens_batch[b], first, source
            ):
                mean_other = others / n_others if n_others > 0 else NAN
                a += own
                m += mean_other
                s += own + others
                if own + mean_other != 0:
                    weighted_ratios += weight * (own - mean_other) / (own + mean_other)
                    weights += weight
        if normalization == "contrast":
            scores.append((a - m) / (a + m) if a + m != 0 else NAN)
        elif normalization == "contrast_per_token":
            scores.append(weighted_ratios / weights if weights != 0 else NAN)
        elif normalization == "share":
            scores.append(2 * a / s - 1 if s != 0 else NAN)
        elif normalization == "olsson_literal":
            scores.append(4 * a / (a + s) - 1 if a + s != 0 else NAN)
        else:
            raise ValueError(f"there is no normalization {normalization!r}.")
    return scores


def induction_logit(pattern, values, w_o, w_u, tokens, sigma, start, centred=True):
    """Section 9: mean over q of A[q, s] (v[s] W_O U_c[:, t_s]) / sigma_q, s = q - (L-1), q in repeat 2 with a next."""
    period = (len(tokens) - start) // 2
    columns = _unembedding_columns(w_u, centred)
    scores = []
    for h in range(len(pattern)):
        effects = []
        for q in range(start + period, start + 2 * period - 1):
            s = q - (period - 1)
            logit = _dot(_row_times_matrix(values[h][s], w_o[h]), columns[int(tokens[s])])
            effects.append(float(pattern[h][q][s]) * logit / float(sigma[q]))
        scores.append(_mean(effects))
    return scores


def ov_eigen(w_e, w_v, w_o, w_u):
    """Section 10: s(M) = Re(sum lambda_i) / sum |lambda_i|, M = W_E W_V W_O W_U; beside it the count with Re > 0."""
    matrix = []
    for token in range(len(w_e)):
        written = _row_times_matrix(_row_times_matrix(w_e[token], w_v), w_o)
        matrix.append(_row_times_matrix(written, w_u))
    eigenvalues = [complex(value) for value in numpy.linalg.eigvals(numpy.array(matrix))]
    sizes = [abs(value) for value in eigenvalues]
    if max(sizes) == 0:
        return NAN, NAN
    large = [value for value in eigenvalues if abs(value) > 1e-6 * max(sizes)]
    positive = [value for value in large if value.real > 0]
    return sum(eigenvalues).real / sum(sizes), len(positive) / len(large)


def losses_by_copy(logits, tokens, start, period):
    """Section 5.2: mean loss at the tokens of repeat 1; mean over repeats 2..R, without each block's first token."""
    first_copy, later_copies = [], []
    for i in range(max(start, 1), len(tokens)):
        row = [float(logit) for logit in logits[i - 1]]
        top = max(row)
        loss = top + math.log(sum(math.exp(logit - top) for logit in row)) - row[int(tokens[i])]
        if i < start + period:
            first_copy.append(loss)
        elif (i - start) % period != 0:
            later_copies.append(loss)
    return _mean(first_copy), _mean(later_copies)

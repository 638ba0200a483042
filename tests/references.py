"""The methods' losses written out from their equations: floats in lists, loops over examples and classes, no torch.

`now` holds every network's logits by the name that the equations give them, such as "S(x')"; `was` holds the same numbers
where an equation takes them as constants. A numerical gradient moves `now` alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

Row = list[float]
Rows = list[Row]
Seen = Mapping[str, Any]
Loss = Callable[[Seen, Seen, list[int], Any], float]


def mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)


def softmax(row: Row, t: float = 1.0) -> Row:
    top = max(row)
    powers = [math.exp((value - top) / t) for value in row]
    return [power / sum(powers) for power in powers]


def kl(target: Row, student: Row, t: float = 1.0) -> float:
    """Return t^2 KL(target || student)."""
    return t**2 * sum(p * math.log(p / q) for p, q in zip(softmax(target, t), softmax(student, t), strict=True))


def ce(row: Row, label: int) -> float:
    return -math.log(softmax(row)[label])


def margin(row: Row, label: int) -> float:
    return max(value for k, value in enumerate(row) if k != label) - row[label]


def boosted_ce(row: Row, label: int, released: bool) -> float:
    p = softmax(row)
    wrong = max(value for k, value in enumerate(p) if k != label)
    return -math.log(p[label]) - math.log(1.0001 - wrong + 1e-12 if released else 1 - wrong)


def cosine(a: Row, b: Row) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def nt_xent(u: Rows, v: Rows, tau: float) -> Row:
    """Return one value per anchor, those of u before those of v."""
    rows, values = [*u, *v], []
    for i, anchor in enumerate(rows):
        likes = [math.exp(cosine(anchor, other) / tau) for other in rows]
        values.append(-math.log(likes[(i + len(u)) % len(rows)] / (sum(likes) - likes[i])))
    return values


def matrix(a: Row) -> Rows:
    """Return CRDND's M of the accuracies a."""
    classes = range(len(a))
    return [[a[i] if i == j else (1 - a[j]) / (len(a) - 1) for j in classes] for i in classes]


def times(m: Rows, z: Row) -> Row:
    return [sum(w * value for w, value in zip(row, z, strict=True)) for row in m]


def minus(a: Rows, b: Rows) -> Rows:
    return [[x - y for x, y in zip(*rows, strict=True)] for rows in zip(a, b, strict=True)]


def mean_kl(targets: Rows, students: Rows, t: float = 1.0, weights: Row | None = None) -> float:
    weights = weights or [1.0] * len(targets)
    return mean(w * kl(p, q, t) for w, p, q in zip(weights, targets, students, strict=True))


def mean_ce(rows: Rows, y: list[int]) -> float:
    return mean(map(ce, rows, y))


# The losses of whole methods. c: the recipe's [method] section, and what a test adds to it ------------------------------


def standard(now: Seen, was: Seen, y: list[int], c: Any) -> float:
    return mean_ce(now["S(x)"], y)


def pgd_at(now: Seen, was: Seen, y: list[int], c: Any) -> float:
    return mean_ce(now["S(x')"], y)


def trades(now: Seen, was: Seen, y: list[int], c: Any) -> float:
    return mean_ce(now["S(x)"], y) + c.beta * mean_kl(now["S(x)"], now["S(x')"])


def hat(now: Seen, was: Seen, y: list[int], c: Any) -> float:
    helped = [row.index(max(row)) for row in was["T0(x')"]]
    return trades(now, was, y, c) + c.gamma * mean_ce(now["S(2x'-x)"], helped)


def lbgat(now: Seen, was: Seen, y: list[int], c: Any) -> float:
    pairs = zip(now["S(x')"], now["P(x)"], strict=True)
    square = mean((p - q) ** 2 for student, peer in pairs for p, q in zip(student, peer, strict=True))
    return square + mean_ce(now["P(x)"], y) + c.beta * mean_kl(now["S(x)"], now["S(x')"])


def adr(now: Seen, was: Seen, y: list[int], c: Any) -> float:
    (u, _), (mixing, _), soft = c.temperature, c.mixing, []
    for row, label in zip(was["E(x)"], y, strict=True):
        p = softmax(row, u)
        mine = min(max(mixing - (max(p) - p[label]), 0), 1)
        soft.append([mine * q + (1 - mine) * (k == label) for k, q in enumerate(p)])

    def ce_of(rows: Rows) -> float:
        return mean(
            -sum(q * math.log(p) for q, p in zip(s, softmax(row), strict=True))
            for s, row in zip(soft, rows, strict=True)
        )

    if c.base == "pgd-at":
        return ce_of(now["S(x')"])
    return ce_of(now["S(x)"]) + c.beta * mean_kl(now["S(x)"], now["S(x')"])


def mart(now: Seen, was: Seen, y: list[int], c: Any) -> float:
    doubt = [1 - softmax(row)[label] for row, label in zip(now["S(x)"], y, strict=True)]
    boosted = mean(boosted_ce(row, label, c.boost == "released") for row, label in zip(now["S(x')"], y, strict=True))
    return boosted + c.beta * mean_kl(now["S(x)"], now["S(x')"], weights=doubt)


def ard(now: Seen, was: Seen, y: list[int], c: Any) -> float:
    soft = mean_kl(was["T0(x)"], now["S(x')"], c.temperature)  # t^2 inside
    return c.alpha * c.scale * soft + (1 - c.alpha) * mean_ce(now["S(x)"], y)


def akd2(now: Seen, was: Seen, y: list[int], c: Any) -> float:
    adv, t = now["S(x')"], c.temperature
    soft = c.robust * mean_kl(was["T0(x')"], adv, t) + c.clean * mean_kl(was["T1(x')"], adv, t)
    return c.label * mean_ce(adv, y) + soft


def adaad(now: Seen, was: Seen, y: list[int], c: Any) -> float:
    adversarial, clean = mean_kl(was["T0(x')"], now["S(x')"]), mean_kl(was["T0(x)"], now["S(x)"])
    return c.scale * (c.alpha * adversarial + (1 - c.alpha) * clean)


def swap(row: Row, label: int) -> Row:
    """Return the row with its largest number and the label's exchanged."""
    place = row.index(max(row))
    return [row[{place: label, label: place}.get(k, k)] for k in range(len(row))]


def dgad(now: Seen, was: Seen, y: list[int], c: Any) -> float:
    clean, robust, apart = list[float](), list[float](), list[float]()
    for i, label in enumerate(y):
        first = was["T0(x)"][i].index(max(was["T0(x)"][i]))
        terms, point = (robust, "x'") if first == label else (clean, "x")
        terms.append(kl(swap(was[f"T0({point})"][i], label), now[f"S({point})"][i]))
        p, q = softmax(now["S(x')"][i]), softmax(now["S(x)"][i])
        apart.append(mean((a - b) ** 2 for a, b in zip(p, q, strict=True)))
    n = len(clean) / len(y)
    factor = n * mean(clean) + 1 - n if c.bracket == "released" else 1 - n
    guided = factor * mean(robust) + (0 if c.bracket == "released" else n * mean(clean))
    return c.scale * guided + c.beta * mean(apart)


def mtard(now: Seen, was: Seen, y: list[int], c: Any) -> float:
    robust, natural = was["T0(x')"], was["T0(x')" if c.clean_target == "robust" else "T1(x)"]
    adversarial = mean_kl(robust, now["S(x')"]) + excess(robust, c.offset)
    clean = mean_kl(natural, now["S(x)"]) + excess(natural, c.offset)
    return c.scale * ((1 - c.weight) * adversarial + c.weight * clean)


def excess(targets: Rows, offset: float) -> float:
    """Return what an offset in the logarithm adds to a divergence from these targets."""
    return mean(sum(p * (math.log(p + offset) - math.log(p)) for p in softmax(row)) for row in targets)


def b_mtard(now: Seen, was: Seen, y: list[int], c: Any) -> float:
    robust, clean = (
        [[z / u for z in row] for row in was[name]] for name, u in zip(("T0(x')", "T1(x)"), c.softer, strict=True)
    )
    return mtard(now, {**was, "T0(x')": robust, "T1(x)": clean}, y, c)


def rslad(now: Seen, was: Seen, y: list[int], c: Any) -> float:
    adversarial, clean = mean_kl(was["T0(x)"], now["S(x')"]), mean_kl(was["T0(x)"], now["S(x)"])
    return c.scale * (c.alpha * adversarial + (1 - c.alpha) * clean)


def absld(now: Seen, was: Seen, y: list[int], c: Any) -> float:
    both = [a * n for a, n in zip(*c.softer, strict=True)]
    hard, easy = c.softer if c.temperatures == "separate" else (both, both)
    soft = [[[z / t[k] for z in row] for row, k in zip(was["T0(x)"], y, strict=True)] for t in (hard, easy)]
    return c.scale * (c.alpha * mean_kl(soft[0], now["S(x')"]) + (1 - c.alpha) * mean_kl(soft[1], now["S(x)"]))


def entropy(row: Row, order: float) -> float:
    p = softmax(row)
    return -sum(q * math.log(q) for q in p) if order == 1 else math.log(sum(q**order for q in p)) / (1 - order)


def kdiga(now: Seen, was: Seen, y: list[int], c: Any) -> float:
    apart = [
        a - b for own, taught in zip(now["dS(x)"], was["dT0(x)"], strict=True) for a, b in zip(own, taught, strict=True)
    ]
    norm = math.sqrt(sum(value**2 for value in apart)) / len(y)
    imitation, label = mean_kl(was["T0(x)"], now["S(x)"], c.temperature), mean_ce(now["S(x)"], y)
    return c.alpha * c.scale * imitation + (1 - c.alpha) * label + c.alignment / len(y) * norm


def saad(now: Seen, was: Seen, y: list[int], c: Any) -> float:
    unsure = [entropy(row, c.order) for row in was["T0(x')"]]
    w = [c.weight * (h - min(unsure)) for h in unsure]
    left = [1 - value / (max(w) + 1e-8) for value in w]
    taught, learnt = (minus(seen[f"{who}(x')"], seen[f"{who}(2x-x')"]) for seen, who in ((was, "T0"), (now, "S")))
    adversarial = mean_kl(was["T0(x')"], now["S(x')"], weights=w) + c.alpha * c.ramp * mean_kl(
        taught, learnt, weights=w
    )
    return adversarial + c.beta * mean_kl(was["T0(x)"], now["S(x)"], weights=left)


def ciard(now: Seen, was: Seen, y: list[int], c: Any) -> float:
    def terms(seen: Seen) -> list[float]:
        robust, clean = (
            [[z / u for z in row] for row in was[name]] for name, u in zip(("P(x')", "T1(x)"), c.softer, strict=True)
        )
        wrong = [i for i, row in enumerate(was["T1(x')"]) if row.index(max(row)) != y[i]]
        pushed = [kl(was["T1(x')"][i], [z / c.push_temperature for z in seen["S(x')"][i]]) for i in wrong]
        found = mean_kl(robust, seen["S(x')"]), mean_kl(clean, seen["S(x)"]), mean(pushed) if wrong else 0
        return [c.scale * value for value in found]

    adversarial, natural, push = terms(now)
    a, n, p = (math.floor(math.log10(max(value, c.floor))) for value in terms(was))
    return adversarial + natural - 10 ** (min(a, n) - p) * push + mean_ce(now["P(x')"], y)


def trust(rows: Rows, y: list[int], beta: float) -> Row:
    return [softmax(row)[label] ** beta for row, label in zip(rows, y, strict=True)]


def iad_i(now: Seen, was: Seen, y: list[int], c: Any) -> float:
    teacher, adv = was["T0(x)"], now["S(x')"]
    if not c.begun:
        return mean_kl(teacher, adv)
    a = trust(was["T0(x')"], y, c.beta)
    imitation = mean_kl(teacher, adv, weights=a if c.trust_teacher_term else None)
    return imitation + mean_kl(now["S(x)"], adv, weights=[1 - value for value in a])


def adaiad(now: Seen, was: Seen, y: list[int], c: Any) -> float:
    a = trust(was["T0(x')"], y, c.beta) if c.begun else [1.0] * len(y)
    soft = mean_kl(was["T0(x')"], now["S(x')"], c.temperature)  # t^2 inside
    soft += mean_kl(now["S(x)"], now["S(x')"], weights=[1 - value for value in a])
    return c.alpha * soft + (1 - c.alpha) * mean_ce(now["S(x)"], y)


def iad_ii(now: Seen, was: Seen, y: list[int], c: Any) -> float:
    teacher, adv = was["T0(x')"], now["S(x')"]
    a = trust(teacher, y, c.beta) if c.begun else [1.0] * len(y)
    middle = mean_kl(teacher, adv, weights=a) + mean_kl(now["S(x)"], adv, weights=[1 - value for value in a])
    return c.label * mean_ce(adv, y) + c.robust * middle + c.clean * mean_kl(was["T1(x')"], adv)


def peeraid(now: Seen, was: Seen, y: list[int], c: Any) -> float:
    target = (was if c.detach_peer_target else now)["S(x')"]
    peer = c.peer_label * mean_ce(now["P(x')"], y) + c.peer_imitation * mean_kl(target, now["P(x')"])
    adv, t = now["S(x')"], c.temperature
    imitation, consistency = mean_kl(was["P(x')"], adv, t), mean_kl(now["S(x)"], adv, t)
    return peer + c.label * mean_ce(adv, y) + c.imitation * imitation + c.consistency * consistency


def crdnd(now: Seen, was: Seen, y: list[int], c: Any) -> float:
    def relation(student: Rows, teacher: Rows, accuracy: Row) -> float:
        u = student if c.compensation == "off" else [times(matrix(accuracy), row) for row in student]
        v = teacher
        if c.domain == "probs":
            u, v = [softmax(row) for row in u], [softmax(row) for row in v]
        return mean(nt_xent(u, v, c.tau))

    clean = relation(now["S(x)"], was["T0(x)"], c.accuracy[0])
    return c.balance * clean + (1 - c.balance) * relation(now["S(x')"], was["T0(x')"], c.accuracy[1])


def darht(now: Seen, was: Seen, y: list[int], c: Any) -> float:
    """c.seen: "x'" or "x", as the coin fell; c.labels, c.teachers: whether the phase has them; c.shares: m_i of before."""
    blocks, teachers, loss = now[f"z({c.seen})"], [was[f"T{i}({c.seen})"] for i in range(2)], 0.0
    if c.labels:
        f = [[value + b for value, b in zip(times(now["B"], z), now["b"], strict=True)] for z in blocks]
        loss += mean_ce(f, y)
    if not c.teachers:
        return loss
    weights = [math.exp(-mean_ce(teacher, y)) for teacher in teachers]
    if c.weighting == "mwu":
        weights = [m * w for m, w in zip(c.shares, weights, strict=True)]
        weights = [w / sum(weights) for w in weights]
    if c.weighting == "uniform":
        weights = [1 / len(teachers)] * len(teachers)
    for i, (weight, teacher) in enumerate(zip(weights, teachers, strict=True)):
        classes = len(teacher[0])
        own = [z[i * classes : (i + 1) * classes] for z in blocks]
        pairs = list(zip(teacher, own, strict=True))
        squares = [(p - q) ** 2 for row, block in pairs for p, q in zip(row, block, strict=True)]
        loss += weight * (mean(kl(row, block) for row, block in pairs) if c.distance == "kl" else mean(squares))
    return loss


LOSSES: dict[str, Loss] = {
    "standard": standard, "pgd-at": pgd_at, "trades": trades, "mart": mart, "ard": ard, "akd2": akd2, "adaad": adaad,
    "rslad": rslad, "iad-i": iad_i, "iad-ii": iad_ii, "peeraid": peeraid, "crdnd": crdnd, "darht": darht,
    "adaiad": adaiad, "hat": hat, "mtard": mtard, "absld": absld, "saad": saad, "kdiga": kdiga, "b-mtard": b_mtard,
    "dgad": dgad, "lbgat": lbgat, "adr": adr, "ciard": ciard,
}  # fmt: skip

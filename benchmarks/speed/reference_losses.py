"""The loss of a batch as each method's script has it: its attack, and every forward that the script makes.

Written from `docs/methods.md`. F is a forward of the student, T of a teacher, P of the peer; a gradient to the input costs
one more, one to input and parameters two more. Marks: [C] read or counted in the authors' code, [I] inferred, a choice of
ours. A further method, or a recipe's variant of one, is one more function in `METHODS`.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import numpy as np
import torch
import torch.nn.functional as F
from reference import Script, attack
from torch import Tensor, nn


def pgd_at(script: Script, x: Tensor, y: Tensor) -> Tensor:
    """Return CE(S(x'), y), x' = argmax CE(S(x'), y) from a uniform start that the host draws; 33 F [C]."""
    return F.cross_entropy(script.student(drawn_by_the_host(script, x, y)), y)


def pgd_at_awp(script: Script, x: Tensor, y: Tensor) -> Tensor:
    """Return PGD-AT's loss at perturbed weights; 30 F + 6 F [I]."""
    x_adv = drawn_by_the_host(script, x, y)
    return perturbed(script, lambda net: F.cross_entropy(net(x_adv), y))


def trades(script: Script, x: Tensor, y: Tensor) -> Tensor:
    """Return CE(S(x), y) + beta KL(S(x) || S(x')); S(x) anew in each attack step and in each term, 39 F [C]."""
    student = script.student
    x_adv = attack(script, x, lambda x_adv: kl(student(x_adv), student(x), "sum"))
    natural = F.cross_entropy(student(x), y)
    loss: Tensor = natural + script.recipe.method["beta"] * kl(student(x_adv), student(x))
    return loss


def hat(script: Script, x: Tensor, y: Tensor) -> Tensor:
    """Return TRADES's loss, S(x) once, + gamma CE(S(x_h), argmax T(x')), x_h = x + c (x' - x); T + 39 F [I]."""
    c, student = script.recipe.method, script.student
    x_adv = attack(script, x, lambda x_adv: kl(student(x_adv), student(x), "sum"))
    clean = student(x)
    loss: Tensor = F.cross_entropy(clean, y) + c["beta"] * kl(student(x_adv), clean)
    with torch.no_grad():
        helped = script.teachers[0](x_adv).argmax(dim=1)
    loss += c["gamma"] * F.cross_entropy(student(x + c["reach"] * (x_adv - x)), helped)
    return loss


def lbgat(script: Script, x: Tensor, y: Tensor) -> Tensor:
    """Return mean (S(x') - P(x))^2 + CE(P(x), y) + b KL(S(x) || S(x')); S(x) anew in each attack step, 36 F + 3 P [I]."""
    student = script.student
    assert script.peer is not None
    x_adv = attack(script, x, lambda x_adv: kl(student(x_adv), student(x), "sum"))
    adversarial, clean, peer = student(x_adv), student(x), script.peer(x)
    loss: Tensor = F.mse_loss(adversarial, peer) + F.cross_entropy(peer, y)
    loss += script.recipe.method["beta"] * kl(adversarial, clean)
    return loss


def trades_awp(script: Script, x: Tensor, y: Tensor) -> Tensor:
    """Return TRADES's loss at perturbed weights, S(x) once in each pass; 42 F [I]."""
    x_adv = attack(script, x, lambda x_adv: kl(script.student(x_adv), script.student(x), "sum"))

    def outer(net: nn.Module) -> Tensor:
        clean = net(x)
        loss: Tensor = F.cross_entropy(clean, y) + script.recipe.method["beta"] * kl(net(x_adv), clean)
        return loss

    return perturbed(script, outer)


def perturbed(script: Script, outer: Callable[[nn.Module], Tensor]) -> Tensor:
    """Return the loss at w + gamma v, v_l = |w_l| g_l / |g_l| of convolutions and linear layers, g found on a copy [C].

    `Script.step` takes gamma v back once the optimizer has stepped.
    """
    wanted, copy = script.recipe.weight_perturbation, deepcopy(script.student)
    assert wanted is not None
    outer(copy).backward()  # type: ignore[no-untyped-call]
    for own, (name, found) in zip(script.student.parameters(), copy.named_parameters(), strict=True):
        if name.endswith("weight") and own.dim() > 1 and found.grad is not None:
            script.moved.append((own, wanted.gamma * own.detach().norm() / found.grad.norm() * found.grad))
    script.move(1)
    return outer(script.student)


def adr(script: Script, x: Tensor, y: Tensor) -> Tensor:
    """Return CE(q, S(x')), q the rectified label of the first step; E + 23 F, E here the student [I]."""
    c, student = script.recipe.method, script.student
    p = F.softmax(ask(student.eval(), x) / c["temperature"][0], dim=1)
    student.train()
    trust = (c["mixing"][0] - (p.amax(dim=1) - p.gather(1, y[:, None]).squeeze(1))).clamp(0, 1)[:, None]
    soft = trust * p + (1 - trust) * F.one_hot(y, p.shape[1])
    x_adv = attack(script, x, lambda x_adv: F.cross_entropy(student(x_adv), soft, reduction="sum"))
    return F.cross_entropy(student(x_adv), soft)


def mart(script: Script, x: Tensor, y: Tensor) -> Tensor:
    """Return BCE(S(x'), y) + beta mean[(1 - S_y(x)) KL(S(x) || S(x'))]; 26 F [I]."""
    x_adv = label_attack(script, x, y)
    clean, adversarial = script.student(x), script.student(x_adv)
    likes = F.softmax(adversarial, dim=1).scatter(1, y[:, None], 0.0).amax(dim=1)  # (B,), the best wrong class
    boosted = F.cross_entropy(adversarial, y) - torch.log(1.0001 - likes + 1e-12).mean()
    doubt = 1 - F.softmax(clean, dim=1).gather(1, y[:, None]).squeeze(1)  # (B,)
    loss: Tensor = boosted + script.recipe.method["beta"] * (doubt * kl(adversarial, clean, "none").sum(dim=1)).mean()
    return loss


def rslad(script: Script, x: Tensor, y: Tensor) -> Tensor:
    """Return s [a KL(T(x) || S(x')) + (1 - a) KL(T(x) || S(x))], x' = argmax KL(T(x) || S(x')); T + 26 F [C]."""
    alpha, scale = script.recipe.method["alpha"], script.recipe.method["scale"]
    teacher = ask(script.teachers[0], x)
    x_adv = attack(script, x, lambda x_adv: kl(script.student(x_adv), teacher, "sum"))
    adversarial, clean = kl(script.student(x_adv), teacher), kl(script.student(x), teacher)
    loss: Tensor = scale * (alpha * adversarial + (1 - alpha) * clean)
    return loss


def absld(script: Script, x: Tensor, y: Tensor) -> Tensor:
    """Return RSLAD's loss of the first epoch, whose temperatures by class are all 1; T + 26 F [C]."""
    c, student, teacher = script.recipe.method, script.student, ask(script.teachers[0], x)
    teacher = teacher / teacher.new_ones(teacher.shape[1])[y][:, None]
    x_adv = attack(script, x, lambda x_adv: kl(student(x_adv), teacher, "sum"))
    adversarial, clean = kl(student(x_adv), teacher), kl(student(x), teacher)
    loss: Tensor = c["scale"] * (c["alpha"] * adversarial + (1 - c["alpha"]) * clean)
    return loss


def rslad_igdm(script: Script, x: Tensor, y: Tensor) -> Tensor:
    """Return RSLAD + w KL(T(x') - T(x-) || S(x') - S(x-)), x- = 2 x - x'; S(x') once for each, 3 T + 32 F [C].

    w is that of the first epoch.
    """
    alpha, scale, igdm = script.recipe.method["alpha"], script.recipe.method["scale"], script.recipe.modules[0]
    teacher = ask(script.teachers[0], x)
    x_adv = attack(script, x, lambda x_adv: kl(script.student(x_adv), teacher, "sum"))
    behind = 2 * x - x_adv
    ahead, clean, back = script.student(x_adv), script.student(x), script.student(behind)
    indirect = kl(ahead - back, ask(script.teachers[0], x_adv) - ask(script.teachers[0], behind))
    direct = scale * (alpha * kl(script.student(x_adv), teacher) + (1 - alpha) * kl(clean, teacher))
    loss: Tensor = direct + igdm["alpha"] / igdm["ramp_epochs"] * indirect
    return loss


def ard(script: Script, x: Tensor, y: Tensor) -> Tensor:
    """Return s a t^2 KL(T(x) || S(x')) + (1 - a) CE(S(x), y); T + 26 F, S(x) also where its weight is 0 [I]."""
    c = script.recipe.method
    x_adv = label_attack(script, x, y)
    imitation = kl(script.student(x_adv), ask(script.teachers[0], x), t=c["temperature"])
    loss: Tensor = c["scale"] * c["alpha"] * imitation + (1 - c["alpha"]) * F.cross_entropy(script.student(x), y)
    return loss


def akd2(script: Script, x: Tensor, y: Tensor) -> Tensor:
    """Return l0 CE(S(x'), y) + l1 t^2 KL(T_at(x') || S(x')) + l2 t^2 KL(T_st(x') || S(x')); 2 T + 23 F [I]."""
    c = script.recipe.method
    x_adv = label_attack(script, x, y)
    student = script.student(x_adv)
    robust, clean = (kl(student, ask(teacher, x_adv), t=c["temperature"]) for teacher in script.teachers)
    loss: Tensor = c["label"] * F.cross_entropy(student, y) + c["robust"] * robust + c["clean"] * clean
    return loss


def adaad(script: Script, x: Tensor, y: Tensor) -> Tensor:
    """Return s [a KL(T(x') || S(x')) + (1 - a) KL(T(x) || S(x))], x' through both; 26 F + 22 T, x also at a = 1 [C]."""
    alpha, scale, teacher = script.recipe.method["alpha"], script.recipe.method["scale"], script.teachers[0]
    x_adv = attack(script, x, lambda x_adv: kl(script.student(x_adv), teacher(x_adv), "sum"))
    clean, adversarial = script.student(x), script.student(x_adv)
    loss: Tensor = scale * (alpha * kl(adversarial, ask(teacher, x_adv)) + (1 - alpha) * kl(clean, ask(teacher, x)))
    return loss


def adaiad(script: Script, x: Tensor, y: Tensor) -> Tensor:
    """Return a t^2 KL(T(x') || S(x')) + a mean[(1 - A) KL(S(x) || S(x'))] + (1 - a) CE(S(x), y); 29 F + 21 T [I].

    A = T_y(x')^beta. S(x) anew in either term, also where a is 1.
    """
    c, teacher = script.recipe.method, script.teachers[0]
    x_adv = attack(script, x, lambda x_adv: kl(script.student(x_adv), teacher(x_adv), "sum"))
    label, adversarial, taught = F.cross_entropy(script.student(x), y), script.student(x_adv), ask(teacher, x_adv)
    trust = F.softmax(taught, dim=1).gather(1, y[:, None]).squeeze(1) ** c["beta"]  # (B,)
    own = ((1 - trust) * kl(adversarial, script.student(x), "none").sum(dim=1)).mean()
    loss: Tensor = c["alpha"] * (kl(adversarial, taught, t=c["temperature"]) + own) + (1 - c["alpha"]) * label
    return loss


def dgad(script: Script, x: Tensor, y: Tensor) -> Tensor:
    """Return s mean[m KL(swap T(x) || S(x)) + (1 - m) KL(swap T(x') || S(x'))] + b mean (p(x') - p(x))^2; 26 F + 22 T [I].

    m = [argmax T(x) != y].
    """
    c, teacher = script.recipe.method, script.teachers[0]
    x_adv = attack(script, x, lambda x_adv: kl(script.student(x_adv), teacher(x_adv), "sum"))
    clean, adversarial, taught = script.student(x), script.student(x_adv), ask(teacher, x)
    wrong = taught.argmax(dim=1) != y
    guided = kl(clean[wrong], exchanged(taught, y)[wrong], "sum")
    guided += kl(adversarial[~wrong], exchanged(ask(teacher, x_adv), y)[~wrong], "sum")
    apart = F.mse_loss(F.softmax(adversarial, dim=1), F.softmax(clean, dim=1))
    loss: Tensor = c["scale"] * guided / len(x) + c["beta"] * apart
    return loss


def exchanged(logits: Tensor, y: Tensor) -> Tensor:
    """Return logits (B, K) with the largest of each row and the label's exchanged."""
    logits, rows, best = logits.clone(), torch.arange(len(y), device=y.device), logits.argmax(dim=1)
    logits[rows, best], logits[rows, y] = logits[rows, y], logits[rows, best]
    return logits


def iad_i(script: Script, x: Tensor, y: Tensor) -> Tensor:
    """Return mean[KL(T(x) || S(x')) + (1 - A) KL(S(x) || S(x'))], A = T_y(x')^beta; 2 T + 30 F [C]."""
    x_adv = label_attack(script, x, y)
    imitation = kl(script.student(x_adv), ask(script.teachers[0], x))
    trust = F.softmax(ask(script.teachers[0], x_adv), dim=1).gather(1, y[:, None]).squeeze(1)  # (B,)
    loss: Tensor = imitation + introspection(script, x, x_adv, trust ** script.recipe.method["beta"])
    return loss


def mtard(script: Script, x: Tensor, y: Tensor) -> Tensor:
    """Return s/2 [KL(T_r(x') || S(x')) + KL(T_c(x) || S(x))], the first batch's, with log(p + 1e-5); 2 T + 26 F [I]."""
    c, student = script.recipe.method, script.student

    def apart(logits: Tensor, target: Tensor) -> Tensor:
        p = F.softmax(target, dim=1)
        return (p * (torch.log(p + c["offset"]) - F.log_softmax(logits, dim=1))).sum(dim=1).mean()

    x_adv = attack(script, x, lambda x_adv: F.cross_entropy(student(x_adv), y, reduction="sum"))
    robust, clean = (ask(teacher, seen) for teacher, seen in zip(script.teachers, (x_adv, x), strict=True))
    loss: Tensor = c["scale"] / 2 * (apart(student(x_adv), robust) + apart(student(x), clean))
    return loss


def kdiga(script: Script, x: Tensor, y: Tensor) -> Tensor:
    """Return a s KL(T(x) || S(x)) + (1 - a) CE(S(x), y) + c/B |dCE(S(x), y) - dCE(T(x), y)|, d to x; 3 T + 6 F [I].

    T(x) for its gradient and, without one, for its logits: 2 T + T.
    """
    c, teacher = script.recipe.method, script.teachers[0]
    at = x.clone().requires_grad_(True)
    learnt = script.student(at)
    label = F.cross_entropy(learnt, y)
    (own,) = torch.autograd.grad(label, at, create_graph=True)
    (taught,) = torch.autograd.grad(F.cross_entropy(teacher(at), y), at)
    imitation = c["scale"] * kl(learnt, ask(teacher, x), t=c["temperature"])
    loss: Tensor = (
        c["alpha"] * imitation + (1 - c["alpha"]) * label + c["alignment"] / len(x) * torch.norm(own - taught)
    )
    return loss


def saad(script: Script, x: Tensor, y: Tensor) -> Tensor:
    """Return mean[w (KL(T(x') || S(x')) + r KL(T(x') - T(x-) || S(x') - S(x-)))] + b mean[(1 - v) KL(T(x) || S(x))].

    r is that of the first epoch; T's gradient to x once; 4 T + 29 F, S(x) also where b is 0 [I].
    """
    c, student, teacher = script.recipe.method, script.student, script.teachers[0]
    at = x.clone().requires_grad_(True)
    clean = teacher(at)
    (gradient,) = torch.autograd.grad(clean.gather(1, y[:, None]).sum(), at)
    clean = clean.detach()

    def inner(x_adv: Tensor) -> Tensor:
        along = c["reach"] * ((x_adv - x) * gradient).sum(dim=(1, 2, 3))
        return kl(student(x_adv), clean.scatter_add(1, y[:, None], along[:, None]), "sum")

    x_adv = attack(script, x, inner)
    behind = 2 * x - x_adv
    taught, before = ask(teacher, x_adv), ask(teacher, behind)
    p = F.softmax(taught, dim=1)
    w = c["weight"] * -(p * torch.log(p + 1e-12)).sum(dim=1)  # (B,)
    w -= w.min()
    learnt = student(x_adv)
    indirect = kl(learnt - student(behind), taught - before, "none").sum(dim=1)
    adversarial = w * (kl(learnt, taught, "none").sum(dim=1) + c["alpha"] / script.recipe.schedule.epochs * indirect)
    natural = (1 - w / (w.max() + 1e-8)) * kl(student(x), clean, "none").sum(dim=1)
    loss: Tensor = (adversarial + c["beta"] * natural).mean()
    return loss


def iad_ii(script: Script, x: Tensor, y: Tensor) -> Tensor:
    """Return AKD2 at t = 1 whose robust term is mean[A KL(T(x') || S(x')) + (1 - A) KL(S(x) || S(x'))]; 2 T + 30 F [I]."""
    c = script.recipe.method
    x_adv = label_attack(script, x, y)
    student, robust, clean = script.student(x_adv), *(ask(teacher, x_adv) for teacher in script.teachers)
    trust = F.softmax(robust, dim=1).gather(1, y[:, None]).squeeze(1) ** c["beta"]  # (B,)
    middle = (trust * kl(student, robust, "none").sum(dim=1)).mean() + introspection(script, x, x_adv, trust)
    loss: Tensor = c["label"] * F.cross_entropy(student, y) + c["robust"] * middle + c["clean"] * kl(student, clean)
    return loss


def introspection(script: Script, x: Tensor, x_adv: Tensor, trust: Tensor) -> Tensor:
    """Return mean[(1 - A) KL(S(x) || S(x'))] with what makes 30 F of 26: S(x') again, x once more; IAD-I [C], else [I]."""
    adversarial = script.student(x_adv)  # 3 F
    with torch.no_grad():
        script.student(x)  # 1 F: a forward whose result is not learnt from
    divergence = kl(adversarial, script.student(x), "none").sum(dim=1)  # (B,)
    return ((1 - trust) * divergence).mean()


def peeraid(script: Script, x: Tensor, y: Tensor) -> Tensor:
    """Return the sum of the student's and the peer's loss; S(x') once for each, 29 F + 4 P [C]."""
    c, peer = script.recipe.method, script.peer
    assert peer is not None
    answer = ask(peer.eval(), x)
    peer.train()
    x_adv = attack(script, x, lambda x_adv: kl(script.student(x_adv), answer, "sum"))
    taught = peer(x_adv)
    peer_loss = c["peer_label"] * F.cross_entropy(taught, y) + c["peer_imitation"] * kl(taught, script.student(x_adv))
    student, clean = script.student(x_adv), script.student(x)
    imitation, consistency = (kl(student, target, t=c["temperature"]) for target in (taught.detach(), clean))
    student_loss = c["label"] * F.cross_entropy(student, y)
    student_loss = student_loss + c["imitation"] * imitation + c["consistency"] * consistency
    loss: Tensor = peer_loss + student_loss
    return loss


def crdnd(script: Script, x: Tensor, y: Tensor) -> Tensor:
    """Return l NTXent(M1 S(x), T(x)) + (1 - l) NTXent(M2 S(x'), T(x')), x' by the margin; 2 T + 26 F [I]: no code is public.

    M1 and M2 are those of the present epoch, I in the first; the teacher's hits are counted for the next one.
    """
    c = script.recipe.method
    teacher = ask(script.teachers[0], x)
    classes = teacher.shape[1]

    def margin(x_adv: Tensor) -> Tensor:
        logits: Tensor = script.student(x_adv)
        true = logits.gather(1, y[:, None]).squeeze(1)
        return (logits.scatter(1, y[:, None], float("-inf")).amax(dim=1) - true).sum()

    x_adv = attack(script, x, margin)
    teacher_adv = ask(script.teachers[0], x_adv)
    accuracy = script.kept.setdefault("accuracy", torch.ones(2, classes, device=x.device))
    hits = script.kept.setdefault("hits", torch.zeros(2, classes, device=x.device))
    seen = script.kept.setdefault("seen", torch.zeros(classes, device=x.device))
    for row, answer in zip(hits, (teacher, teacher_adv), strict=True):
        row += torch.bincount(y[answer.argmax(dim=1) == y], minlength=classes)
    seen += torch.bincount(y, minlength=classes)
    adversarial = nt_xent(compensated(script.student(x_adv), accuracy[1]), teacher_adv, c["tau"])
    clean = nt_xent(compensated(script.student(x), accuracy[0]), teacher, c["tau"])
    loss: Tensor = c["balance"] * clean + (1 - c["balance"]) * adversarial
    return loss


def compensated(logits: Tensor, accuracy: Tensor) -> Tensor:
    """Return M u (B, K), M_ii = a_i, M_ij = (1 - a_j)/(K - 1), of logits u (B, K) and accuracies a (K,)."""
    classes = len(accuracy)
    matrix = ((1 - accuracy) / (classes - 1)).repeat(classes, 1)
    matrix[range(classes), range(classes)] = accuracy
    return logits @ matrix.T


def nt_xent(student: Tensor, teacher: Tensor, tau: float) -> Tensor:
    """Return the mean over 2B anchors: the positive is the same example in the other network, all but itself below."""
    rows = F.normalize(torch.cat([student, teacher]), dim=1)  # (2B, K)
    cosines = rows @ rows.T / tau
    cosines = cosines.masked_fill(torch.eye(len(rows), device=rows.device) == 1, float("-inf"))
    return F.cross_entropy(cosines, torch.arange(len(rows), device=rows.device).roll(len(student)))


def darht(script: Script, x: Tensor, y: Tensor) -> Tensor:
    """Return CE(f(x'), y) + sum_i w_i KL(T_i(x') || z_i(x')), w_i = exp(-CE(T_i(x'), y)); M T + 23 F [I].

    The middle phase, on a batch that the coin has attacked.
    """
    x_adv = label_attack(script, x, y)
    z = script.student.head.map(script.student.features(x_adv))  # type: ignore[operator, union-attr]
    loss = F.cross_entropy(script.student.head.classify(z), y)  # type: ignore[operator, union-attr]
    for teacher, block in zip(script.teachers, z.chunk(len(script.teachers), dim=1), strict=True):
        answer = ask(teacher, x_adv)
        loss = loss + torch.exp(-F.cross_entropy(answer, y)) * kl(block, answer)
    return loss


def drawn_by_the_host(script: Script, x: Tensor, y: Tensor) -> Tensor:
    """Return x' = argmax CE(S(x'), y) from a uniform start that the host draws."""
    eps = script.recipe.threat.eps
    noise = torch.from_numpy(np.random.uniform(-eps, eps, x.shape)).float().to(x.device)
    return attack(script, x, lambda x_adv: F.cross_entropy(script.student(x_adv), y), x + noise)


def label_attack(script: Script, x: Tensor, y: Tensor) -> Tensor:
    """Return x' = argmax CE(S(x'), y)."""
    return attack(script, x, lambda x_adv: F.cross_entropy(script.student(x_adv), y))


def kl(logits: Tensor, target: Tensor, reduction: str = "batchmean", t: float = 1.0) -> Tensor:
    """Return t^2 KL(target || logits) of logits (B, K) at temperature t, reduced as `F.kl_div` says."""
    return t**2 * F.kl_div(F.log_softmax(logits / t, dim=1), F.softmax(target / t, dim=1), reduction=reduction)


def ask(net: nn.Module, x: Tensor) -> Tensor:
    """Return a network's logits (B, K) without gradient."""
    with torch.no_grad():
        logits: Tensor = net(x)
    return logits


METHODS: dict[str, tuple[Callable[[Script, Tensor, Tensor], Tensor], str]] = {
    "pgd-at": (pgd_at, "backward"),  # the IAD repository's teachers: loss.backward() in the attack [C]
    "trades": (trades, "grad"),  # autograd.grad to the input: 39 F [C]
    "pgd-at@awp": (pgd_at_awp, "backward"),  # as its base [I]
    "trades@awp": (trades_awp, "grad"),  # as its base [I]
    "hat": (hat, "grad"),  # likewise [I]
    "lbgat": (lbgat, "grad"),  # likewise [I]
    "mtard": (mtard, "grad"),  # likewise [I]
    "kdiga": (kdiga, "grad"),  # autograd.grad with create_graph [C]
    "saad": (saad, "grad"),  # likewise [I]
    "adr": (adr, "grad"),  # likewise [I]
    "b-mtard": (mtard, "grad"),  # MTARD's first batch, at temperatures of 1 [I]
    "absld": (absld, "grad"),  # as RSLAD [C]
    "mart": (mart, "grad"),  # after TRADES [I]
    "rslad": (rslad, "grad"),  # after TRADES [C]
    "rslad@igdm": (rslad_igdm, "grad"),  # as its base [C]
    "ard": (ard, "grad"),  # as IAD, whose repository has it as its base [I]
    "akd2": (akd2, "grad"),  # likewise [I]
    "adaad": (adaad, "grad"),  # 26 F + 22 T [C]
    "adaiad": (adaiad, "grad"),  # as AdaAD [I]
    "dgad": (dgad, "grad"),  # as AdaAD [I]
    "iad-i": (iad_i, "grad"),  # 30 F [C]
    "iad-ii": (iad_ii, "grad"),  # as IAD-I [I]
    "peeraid": (peeraid, "grad"),  # 29 F + 4 P [C]
    "crdnd": (crdnd, "grad"),  # [I]
    "darht": (darht, "grad"),  # [I]
}
"""Method, or METHOD@VARIANT of its recipe -> the loss of a batch, and how the released script differentiates in its attack."""

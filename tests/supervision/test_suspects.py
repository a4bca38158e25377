"""Who is blamed for a death: only what ran alone, and only after three of them."""

from culm.commit import Held
from culm.worker.board import Seen
from culm.worker.suspects import STRIKES, Suspects


def held(*names: str) -> list[Held]:
    return [Held(name, "w/1") for name in names]


def pairs(*names: str) -> list[Held]:
    return held(*names)


def test_what_had_not_begun_is_given_back_and_what_ran_is_suspect() -> None:
    suspects = Suspects()
    order = suspects.died(Seen(held("a", "b"), held("c", "d")), "killed by SIGSEGV", apart=False)
    assert order.end == [("c", "w/1", ""), ("d", "w/1", "")]
    run = suspects.take()
    assert run is not None
    assert run.run == pairs("a", "b")
    assert suspects.take() is None


def test_a_death_in_company_is_nobodys_strike() -> None:
    suspects = Suspects()
    for _ in range(10 * STRIKES):
        assert suspects.died(Seen(held("a", "b"), []), "killed by SIGKILL", apart=False).end == []
        assert suspects.take() is not None


def test_three_deaths_alone_are_the_end_and_say_why() -> None:
    suspects = Suspects()
    suspects.died(Seen(held("bad", "good"), []), "killed by SIGSEGV", apart=False)
    for _ in range(STRIKES - 1):
        assert suspects.take() is not None
        assert suspects.died(Seen(held("bad"), held("good")), "killed by SIGSEGV", apart=True).end == []
        assert list(suspects.waiting) == ["good", "bad"]
    assert suspects.take() is not None
    [(name, _, why)] = suspects.died(Seen(held("bad"), held("good")), "killed by SIGSEGV", apart=True).end
    assert name == "bad"
    assert why == "its worker process died 3 times while it ran there alone: killed by SIGSEGV"
    assert list(suspects.waiting) == ["good"]


def test_strikes_are_forgotten_when_all_that_ran_apart_has_ended() -> None:
    suspects = Suspects()
    for _ in range(STRIKES - 1):
        suspects.died(Seen(held("a"), []), "exit code 1", apart=True)
        suspects.take()
    suspects.cleared()
    assert suspects.died(Seen(held("a"), []), "exit code 1", apart=True).end == []


def test_one_that_died_alone_among_others_in_a_usual_process_has_its_first_strike() -> None:
    suspects = Suspects()
    suspects.died(Seen(held("a"), []), "exit code 1", apart=False)
    for _ in range(STRIKES - 2):
        suspects.take()
        assert suspects.died(Seen(held("a"), []), "exit code 1", apart=True).end == []
    suspects.take()
    assert suspects.died(Seen(held("a"), []), "exit code 1", apart=True).end != []

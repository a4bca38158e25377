"""Who is blamed for a death: only what ran alone, and only after three of them."""

from collections.abc import Sequence

from culm.commit import Held
from culm.worker.board import Seen
from culm.worker.orders import Order
from culm.worker.suspects import STRIKES, Suspects


def held(*names: str) -> list[Held]:
    return [Held(name, "w/1") for name in names]


def first(running: list[Held], claimed: Sequence[Held] = ()) -> Seen:
    """What runs is the first that ever ran there."""
    return Seen(running, list(claimed), first=True)


def test_what_had_not_begun_is_given_back_and_what_ran_is_suspect() -> None:
    suspects = Suspects()
    order = suspects.died(Seen(held("a", "b"), held("c", "d"), "w/2"), "killed by SIGSEGV", apart=False)
    assert (order.give_back, order.claiming, order.lost) == (held("c", "d"), "w/2", [])
    assert [run.run for run in suspects.take(2)] == [held("a"), held("b")]
    assert suspects.take(2) == []


def test_a_death_in_company_is_nobodys_strike() -> None:
    suspects = Suspects()
    for _ in range(10 * STRIKES):
        assert suspects.died(Seen(held("a", "b")), "killed by SIGKILL", apart=False).lost == []
        assert suspects.take(1)


def test_three_deaths_alone_are_the_end_and_say_why() -> None:
    suspects = Suspects()
    suspects.died(Seen(held("bad", "good")), "killed by SIGSEGV", apart=False)
    for _ in range(STRIKES - 1):
        assert suspects.take(1)
        assert suspects.died(first(held("bad"), held("good")), "killed by SIGSEGV", apart=True).lost == []
        assert list(suspects.waiting) == ["good", "bad"]
    assert suspects.take(1)
    [(bad, why)] = suspects.died(first(held("bad"), held("good")), "killed by SIGSEGV", apart=True).lost
    assert bad.job_id == "bad"
    assert why == "its worker process died 3 times while it ran there alone: killed by SIGSEGV"
    assert list(suspects.waiting) == ["good"]


def test_strikes_are_forgotten_when_all_that_ran_apart_has_ended() -> None:
    suspects = Suspects()
    for _ in range(STRIKES - 1):
        suspects.died(first(held("a")), "exit code 1", apart=True)
        suspects.take(1)
    suspects.cleared()
    assert suspects.died(first(held("a")), "exit code 1", apart=True).lost == []


def test_a_death_in_a_usual_process_is_nobodys_strike() -> None:
    """Who ran there alone at last may have died of another's thread, or of the memory that others left behind."""
    suspects = Suspects()
    for _ in range(10 * STRIKES):
        assert suspects.died(first(held("a")), "killed by SIGKILL", apart=False).lost == []
        assert suspects.take(1)


def test_a_death_where_others_ran_before_is_nobodys_strike() -> None:
    suspects = Suspects()
    for _ in range(10 * STRIKES):
        assert suspects.died(Seen(held("a")), "killed by SIGKILL", apart=True).lost == []
        assert suspects.take(1)


def test_whom_nobody_took_up_is_suspect_still() -> None:
    suspects = Suspects()
    suspects.died(Seen(held("a", "b")), "exit code 1", apart=False)
    [order] = suspects.take(1)
    suspects.not_taken(order)
    assert suspects.take(1) == [order]


def test_a_claim_whose_answer_was_heard_is_not_asked_for_again() -> None:
    order = Suspects().died(Seen(held("a"), [], "w/1"), "exit code 1", apart=False)
    assert order.claiming == ""  # else the suspect would be given back, too


def test_who_became_suspect_anew_is_known_by_the_lease_of_then() -> None:
    """The board of a process apart shows what ended there, too."""
    suspects = Suspects()
    suspects.died(Seen([Held("a", "w/2")]), "exit code 1", apart=False)
    suspects.died(Seen(held("b"), held("a")), "exit code 1", apart=True)
    assert suspects.waiting["a"] == Held("a", "w/2")
    suspects.not_taken(Order(run=held("a")))
    assert suspects.waiting["a"] == Held("a", "w/2")

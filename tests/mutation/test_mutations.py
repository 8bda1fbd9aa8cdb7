"""The mutation check as a test of ``make test-all``, and the check of the check, which is quick."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutation.mutate import MUTATIONS, ROOT, MutationError, _applied, check, table


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name)
def test_every_mutation_fits_exactly_one_place(mutation) -> None:  # type: ignore[no-untyped-def]
    """Otherwise the code moved on and the mutation tests nothing; entering a mutation of the real tree is never done here."""
    _applied(mutation, ROOT)


def test_a_mutation_that_fits_nowhere_is_an_error(tmp_path: Path) -> None:
    mutation = MUTATIONS[0]
    (tmp_path / mutation.file).parent.mkdir(parents=True)
    (tmp_path / mutation.file).write_text("nothing to change")
    with pytest.raises(MutationError, match="occurs 0 times"):
        _applied(mutation, tmp_path)


@pytest.mark.slow
def test_no_mutation_survives(capsys: pytest.CaptureFixture[str]) -> None:
    caught = check(report=lambda line: None)
    with capsys.disabled():
        print(f"\n{table(caught)}")
    assert all(caught.values()), [name for name, tests in caught.items() if not tests]

"""The scan finds what is planted, and says what it could not see."""

from __future__ import annotations

from pathlib import Path

import pytest

from stack import audit


def test_a_secret_that_is_put_into_the_tree_is_found(tmp_path: Path) -> None:
    planted = tmp_path / "settings.py"
    planted.write_text(f'AWS = "AKIA{"Z7QX" * 4}"\n')
    assert not audit.secrets([str(planted)]).clean


def test_the_tree_has_none_but_those_that_were_looked_at() -> None:
    told = audit.secrets(audit.tracked())
    assert told.clean, told.said


def test_our_code_and_images_are_clean() -> None:
    for told in (audit.code(), audit.images()):
        assert told.clean, told.said


@pytest.mark.parametrize("strict", [True, False])
def test_what_was_not_seen_is_no_clean_scan(strict: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    clean = audit.Told("a", True)
    for name in ("code", "images"):
        monkeypatch.setattr(audit, name, lambda: clean)
    monkeypatch.setattr(audit, "secrets", lambda _: clean)
    monkeypatch.setattr(audit, "dependencies", lambda _: audit.Told("b", True, unseen="all of them"))
    assert audit.main(["--strict"] if strict else []) == int(strict)

"""Signing in and out."""

from __future__ import annotations

from .conftest import House, words_of


def test_a_user_signs_in_with_a_key(house: House) -> None:
    page = house.of(house.alice).shown("/portal")
    assert house.alice.name in words_of(page)


def test_an_admin_signs_in(house: House) -> None:
    assert house.admin().get("/sign-in").headers["location"] == "/admin"
    assert house.admin().get("/portal").status_code == 403


def test_nobody_is_asked_to(house: House) -> None:
    answer = house.nobody.get("/portal?x=1")
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in?next=/portal%3Fx%3D1")

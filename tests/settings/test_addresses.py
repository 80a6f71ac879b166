import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from settings.addresses import shown, without_password


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("postgresql://ada:s3cret@db:5432/models?sslmode=require", "postgresql://ada:***@db:5432/models?sslmode=require"),
        ("postgresql+psycopg://ada:p@ss/w:rd@db/models", "postgresql+psycopg://ada:***@db/models"),
        ("postgresql://db/models?user=ada&password=s3cret&sslmode=require", "postgresql://db/models?user=ada&password=***&sslmode=require"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("http://ada@mlflow:5000/prefix", "http://ada@mlflow:5000/prefix"),
        ("sqlite:////home/ada/mlflow.db", "sqlite:////home/ada/mlflow.db"),
    ],
)  # fmt: skip
def test_an_address_is_shown_as_it_is_but_for_its_password(uri: str, expected: str) -> None:
    assert shown(uri) == expected


@given(password=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=4))
def test_no_password_is_ever_shown_escaped_or_not(password: str) -> None:
    expected = "postgresql://ada:***@db:5432/models"
    assume(password not in expected)
    assert shown(expected.replace("***", password)) == expected


def test_a_message_is_cleared_of_the_password_as_written_and_as_meant() -> None:
    uri = "postgresql://ada:p%40ss@db/models"
    assert without_password("login as ada with p@ss (p%40ss) failed", uri) == "login as ada with *** (***) failed"
    assert without_password("cannot reach db", "postgresql://db/models") == "cannot reach db"

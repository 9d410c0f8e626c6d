"""Names of prompts as users give them."""

import numpy as np
import pytest
import torch
from tiny import CAUSAL, tiny_model

from ussfast.errors import PromptError
from ussfast.prompts.bank import Prompt, PromptBank
from ussfast.prompts.names import as_names, check_name, check_prompts


def test_one_or_several_of_any_kind():
    assert as_names("speech") == ("speech",)
    assert as_names(name for name in ("a", "b")) == as_names(np.array(["a", "b"])) == as_names({"a": 1, "b": 2})
    assert as_names(None) == as_names([]) == ()


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        (7, "prompts are names, not int"), ([7], r"prompts are names, not int \(7\)"),
        ([["a"]], r"prompts are names, not list \(\['a'\]\)"), (b"ab", r"prompts are names, not int \(97\)"),
        (["x" * 300], r"unknown prompt 'x{59}\.\.\.; the model knows: speech$"),
        (["a\0\nb"], r"unknown prompt 'a\\x00\\nb'; the model knows: speech$"),
    ],
)  # fmt: skip
def test_what_are_no_prompts(prompts, said):
    with pytest.raises(PromptError, match=f"^{said}"):
        check_prompts(prompts, ("speech",))


@pytest.mark.parametrize(
    ("said", "meant"),
    {
        "noise": "sfxbg", "Background noise": "sfxbg", "background music": "musicbg", "background": "sfxbg or musicbg",
        "voice": "speech or vocals", "guitars": "other", "speach": "speech", "musicbgs": "musicbg",
    }.items(),
)  # fmt: skip
def test_words_that_people_try_first(said, meant):
    known = ("speech", "sfx", "sfxbg", "drums", "vocals", "other", "musicbg")
    with pytest.raises(PromptError, match=f"^unknown prompt '{said}'; did you mean {meant}. The model knows: speech, "):
        check_prompts(said, known, vectors=True)
    with pytest.raises(PromptError, match=f"^unknown prompt '{said}'; the model knows: a, b$"):
        check_prompts(said, ("a", "b"))


def test_sounds_without_a_name_are_shown():
    with pytest.raises(PromptError, match="; the model knows: speech; other sounds are shown by example clips: enroll"):
        check_prompts("dog", ("speech",), vectors=True)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (7, r"is text, not int \(7\)"), (["a"], r"is text, not list"), (None, "is text, not NoneType"),
        ("", "needs characters that can be printed"), (" ", "needs characters"), ("a\0b", r"others, not 'a\\x00b'"),
        ("a\nb", "no others"), ("\ud800", "no others"), ("d" * 300, "of 300 characters is too long for a file: 100"),
        ("\U0001f415" * 51, "of 51 characters is too long"), ("residual", "is what no stem took"),
    ],
)  # fmt: skip
def test_names_that_no_prompt_can_have(name, said):
    with pytest.raises(PromptError, match=said) as caught:
        check_name(name)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


def test_names_that_prompts_can_have():
    for name in ("dog", "my dog's bark", "Hund, groß", "犬", "d" * 100, "a/b"):
        assert check_name(name) == name


def test_a_bank_takes_what_can_be_used():
    bank = PromptBank(tiny_model(CAUSAL))
    size = CAUSAL.dim
    for name, vector, said in (
        ("dog", torch.ones(size + 1), rf"'dog': a vector of {size} numbers is needed, not \[{size + 1}\]"),
        ("dog", torch.ones(1, size), rf"not \[1, {size}\]"),
        ("dog", torch.full((size,), float("nan")), "not finite"),
        ("speech", torch.ones(size), "'speech' is a class prompt"),
        ("a\0", torch.ones(size), "can be printed"),
    ):
        with pytest.raises(PromptError, match=said):
            bank.add(Prompt(name, vector, "enrolled"))
    assert len(bank) == len(CAUSAL.prompts)
    bank.add(Prompt("dog", torch.ones(size), "enrolled"))
    assert "dog" in bank and ["dog"] not in bank
    with pytest.raises(PromptError, match="looked up by its name, not by list"):
        bank[["dog"]]

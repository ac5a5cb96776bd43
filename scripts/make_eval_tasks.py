#!/usr/bin/env python3
"""Makes the small task files of the bundled model: models/small/eval/*.jsonl.

    scripts/make_eval_tasks.py [OUTPUT_FOLDER]

Everything is generated from the word lists below with a fixed seed, so that the files are the same
wherever this runs. `fathom eval parity` runs them. The tasks are what a model of 26 M parameters can
do; a model of another kind wants tasks of its own.
"""

import json
import pathlib
import random
import sys

PEOPLE = ["the old gardener", "a young officer", "the captain", "my aunt", "the schoolmaster",
          "a tall stranger", "the landlord", "an elderly clerk", "the doctor", "the housekeeper"]
DEEDS = ["had walked slowly along the river", "stood for a long time at the window",
         "spoke in a low voice of the war", "went back to the house without a word",
         "sat by the fire and thought of other days", "was waiting at the corner of the street",
         "looked up at the dark hills", "closed the door and listened",
         "sold the horse at the market", "followed the path through the wood"]
TIMES = ["That evening", "In the morning", "After supper", "A week later", "At that moment",
         "Towards midnight", "In those years", "Long afterwards"]
REASONS = ["and nobody asked why", "for there was nothing else to be done",
           "but the others did not notice", "and the wind was rising from the sea",
           "because the bridge had been carried away", "and we heard the bells across the water",
           "so that the whole company fell silent", "and I was glad of it"]
THINGS = ["pass key", "room number", "locker code", "ticket number", "house number",
          "phone extension", "order number"]
NAMES = ["Alice", "Hugo", "Maria", "Clara", "Peter", "Anna"]


def capital(text):
    return text[0].upper() + text[1:]


def sentence(r):
    who, did, when, why = r.choice(PEOPLE), r.choice(DEEDS), r.choice(TIMES), r.choice(REASONS)
    return r.choice([f"{when} {who} {did}, {why}.", f"{capital(who)} {did}, {why}.",
                     f"{when} {who} {did}.", f"{capital(who)} {did}; {why}."])


def pass_keys(r):
    """Two facts among sentences that say nothing, and a question for one of them."""
    yield {"settings": {"name": "pass keys", "kind": "answer", "chat": True, "match": "number",
                        "max_new_tokens": 16}}
    for i in range(16):
        sentences = [sentence(r) for _ in range(4 + i % 8)]
        name, other = r.sample(NAMES, 2)
        thing, another = r.sample(THINGS, 2)
        number = r.randrange(10000, 100000)
        sentences.insert(r.randrange(len(sentences) + 1), f"The {thing} of {name} is {number}.")
        sentences.insert(r.randrange(len(sentences) + 1),
                         f"The {another} of {other} is {r.randrange(10000, 100000)}.")
        yield {"prompt": " ".join(sentences) + f" What is the {thing} of {name}?",
               "expected": number}


def copying(r):
    """A sentence, others, and the first begun a second time: which word ended it?"""
    things = ["miller", "captain", "doctor", "soldier", "farmer", "servant", "judge", "baker",
              "sailor", "painter", "priest", "king"]
    given = ["the horse", "a letter", "the old lamp", "a silver coin", "the keys", "a loaf of bread"]
    yield {"settings": {"name": "copying", "kind": "choice", "style": "text"}}
    for i in range(16):
        right, *others = r.sample(things, 4)
        start = f"{r.choice(TIMES)} {r.choice(PEOPLE)} gave {r.choice(given)} to the"
        middle = " ".join(sentence(r) for _ in range(1 + i % 4))
        choices = [right, *others]
        r.shuffle(choices)
        yield {"question": f"{start} {right}. {middle} {start}", "choices": choices,
               "answer": right}


def agreement(r):
    """Number of the verb, which follows its subject or another noun behind it."""
    yield {"settings": {"name": "agreement", "kind": "choice", "style": "text"}}
    nouns = [("dog", "dogs"), ("boy", "boys"), ("girl", "girls"), ("horse", "horses"),
             ("tree", "trees"), ("bird", "birds"), ("ship", "ships"), ("soldier", "soldiers")]
    places = ["", "", " in the garden", " by the river", " of the house"]
    verbs = [("was", "were"), ("is", "are"), ("has", "have")]
    rest = {"was": "very small", "is": "very small", "has": "come from far away"}
    for i in range(24):
        single, plural = r.choice(nouns)
        one, many = r.choice(verbs)
        subject = plural if i % 2 == 1 else single
        yield {"question": f"{sentence(r)} The {subject}{r.choice(places)}",
               "choices": [f"{one} {rest[one]}.", f"{many} {rest[one]}."], "answer": i % 2}


def continuation(r):
    """Short stories with two heroes: whose turn is it, and what did they lose?"""
    yield {"settings": {"name": "continuation", "kind": "choice", "style": "text"}}
    animals = ["rabbit", "lion", "monkey", "elephant", "tiger", "fox", "crow", "goat"]
    things = ["ball", "hat", "mango", "drum", "kite", "book", "bell", "basket"]
    people = ["Ravi", "Mina", "Anna", "Tom", "Sara", "Ali"]
    for _ in range(16):
        name, (animal, *other_animals) = r.choice(people), r.sample(animals, 4)
        thing, *other_things = r.sample(things, 4)
        if r.random() < 0.5:
            text = (f"Once upon a time there was a little {animal}. The {animal} lived in a forest. "
                    f"One day {name} came to the forest and saw the")
            choices, right = [animal, *other_animals], animal
        else:
            text = (f"{name} had a new {thing}. {name} liked the {thing} very much. One day the "
                    f"{thing} was lost. \"Where is my")
            choices, right = [thing, *other_things], thing
        r.shuffle(choices)
        yield {"question": text, "choices": choices, "answer": right}


def main():
    root = pathlib.Path(__file__).resolve().parent.parent
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else root / "models/small/eval"
    folder.mkdir(parents=True, exist_ok=True)
    for task in (pass_keys, copying, agreement, continuation):
        # Each has a seed of its own, so that a change of one leaves the others as they are.
        lines = [json.dumps(item, ensure_ascii=False) for item in task(random.Random(task.__name__))]
        (folder / f"{task.__name__}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

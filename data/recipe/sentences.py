"""Sentences of this project: a small grammar, and some written by hand.

The grammar is past tense throughout, so subjects and verbs always agree. Every
call with the same seed gives the same sentences; `taken` keeps sets disjoint.
"""

# ruff: noqa: SIM905  (long word lists read better as text)
import random

WORDS: dict[str, list[str]] = {
    "det": ["the", "a", "this", "that", "every", "another", "our", "your", "her", "his"],
    "adj": """old young quiet heavy narrow yellow gentle rusty bitter clever frozen hollow
        joyful lazy modern noisy orange patient quick rough shallow thick useful velvet
        warm foolish purple sudden azure broken cheap deep early faithful golden huge
        violet measured northern southern polished royal strange tiny loyal worn fresh
        dusty sharp smooth tired vague wooden young zealous cautious mild hidden""".split(),
    "person": """farmer teacher sailor doctor painter baker neighbour judge widow pilot
        child shepherd brother sister uncle cousin captain singer jeweller butcher guide
        thief nurse scholar weaver miller tailor author student queen soldier boy girl
        visitor gardener merchant poet chemist driver fisherman clerk engineer""".split(),
    "thing": """basket letter bridge mirror hammer kettle window garden boat ladder coat
        picture wheel bottle drawer carpet engine violin lantern map candle chair pillow
        button jacket shovel trumpet vase zipper stove treasure jewel oyster cheese
        pudding thread feather glove shirt magazine telephone machine camera vision ticket
        anchor fence puzzle journal cushion voyage story song measure toy coin""".split(),
    "place": """harbour valley kitchen village mountain station library orchard meadow
        church river island market forest tower cottage stable bakery theatre museum
        hospital school field desert lake beach garage cellar palace workshop town city
        courtyard shore quarry prairie""".split(),
    "saw": """carried painted found watched sold repaired borrowed lifted dropped measured
        followed noticed described washed finished counted hid pushed ignored praised
        polished bought opened forgot covered chose threw brought chased studied
        examined gathered showed kept treasured enjoyed drew weighed touched""".split(),
    "went": """walked waited slept laughed whispered vanished shouted rested worked danced
        returned wandered hurried listened argued paused smiled travelled coughed prayed
        played stayed sang climbed""".split(),
    "prep": [
        "near",
        "behind",
        "under",
        "beside",
        "above",
        "outside",
        "beyond",
        "across",
        "inside",
        "below",
        "around",
        "opposite",
        "before",
        "without leaving",
        "by",
    ],
    "adv": """slowly carefully gladly again together quietly alone usually bravely twice
        already somehow early rarely always loudly sooner forever nearby outdoors
        politely yesterday honestly""".split(),
    "when": [
        "in the morning",
        "after dinner",
        "late at night",
        "last winter",
        "on Thursday",
        "before sunrise",
        "at noon",
        "every July",
        "during the storm",
        "years ago",
        "once upon a time",
        "this evening",
        "as usual",
        "on the third day",
        "towards the end of March",
        "just before the holidays",
    ],
    "pron": ["he", "she", "they", "we", "nobody", "somebody", "I", "everyone"],
    "join": ["and", "but", "so", "because", "while", "until", "although", "before"],
    "said": ["thought", "claimed", "knew", "hoped", "heard", "feared", "agreed", "believed"],
    "num": [
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "twelve",
        "fifteen",
        "forty",
        "a hundred",
        "several",
    ],
}

TEMPLATES = [
    "{det} {adj} {person} {saw} {det} {thing} {prep} the {place}, {join} {pron} {went} {adv}.",
    "{when}, {det} {person} {saw} the {adj} {thing} and {went} {prep} {det} {adj} {place}.",
    "{pron} {said} that {det} {person} {saw} {num} {adj} {place}s {when}.",
    "{prep} {det} {place}, {det} {adj} {person} {adv} {saw} {num} {thing}s.",
    "Why did {pron} say that {det} {thing} of {det} {person} was {adj} and {adj}?",
    "{det} {person} from the {place} {saw} {num} {thing}s, {join} {det} {person} {went}.",
    "The {thing} {prep} the {place} was {adj}, {join} {det} {person} {said} it was {adj}.",
    "{when} {pron} {went} {prep} the {place} with {det} {thing} and {num} {adj} {thing}s.",
    "{pron} {adv} {saw} {det} {adj} {thing}, {join} {pron} {saw} {det} {thing} {when}.",
    "Did the {person} and the {adj} {person} really {bare} {prep} the {place} {when}?",
    "There were {num} {thing}s in the {place}, {join} only {num} of them were {adj}.",
    "{det} {person} {said} {pron} {went} {adv} {prep} {det} {adj} {place}.",
]
WORDS["bare"] = [
    "walk",
    "wait",
    "sleep",
    "laugh",
    "whisper",
    "shout",
    "rest",
    "work",
    "argue",
    "stay",
    "dance",
    "play",
    "sing",
    "hurry",
    "pause",
    "listen",
]

BY_HAND = """
The ferry had already left when we reached the pier, so we shared an orange and watched the tide.
My grandmother kept her thimbles in a biscuit tin that smelled of cinnamon and machine oil.
If the fog lifts before noon, the survey team will measure the far side of the glacier.
Nobody remembered who had planted the pear tree, but everyone knew whose ladder leaned against it.
She folded the newspaper twice, put it under the wobbling table, and asked for more coffee.
The choir rehearsed the same eight bars until the caretaker began switching off the lights.
A loose shingle rattled on the roof all night and kept the whole household from sleeping.
You may borrow the blue bicycle, provided you oil the chain and return it by Friday.
His argument was short, his evidence was shorter, and his conclusion surprised even himself.
Rain drummed on the greenhouse while the botanist labelled seedlings with a blunt pencil.
The judge asked the witness to speak up, to slow down, and to stop pointing at the clock.
We found a fossil no larger than a thumbnail, curled like a question mark in the shale.
Their youngest daughter could whistle any tune after hearing it once on the radio.
Beneath the floorboards lay a bundle of letters tied with a faded ribbon and a lock of hair.
It took four men and a patient mule to drag the printing press up the hill to the monastery.
The baker's van broke down on the bridge, and by eight o'clock half the town had breakfast there.
Please leave your muddy boots outside, for the carpet has only just been cleaned.
He measured twice, cut once, and still the shelf came out an inch too short.
When the power failed, the orchestra went on playing from memory in the dark.
A thin layer of ice had formed along the edges of the pond, too weak to hold a sparrow.
The old cartographer drew sea monsters wherever his knowledge of the coast ran out.
I would rather be early and bored than late and out of breath, she told the conductor.
Each autumn the geese cross the valley in long ragged lines that the children try to count.
The recipe calls for a pinch of saffron, a cup of broth, and considerable patience.
After the vote, the chairman thanked both sides and quietly poured himself a glass of water.
Our neighbour's parrot learned to imitate the telephone, which made for confusing afternoons.
Someone had carved two initials and a date into the bark, but moss now covered the year.
The engineer pressed her ear to the pipe and heard, very faintly, the sound of running water.
They argued about the shape of the moon until the clouds parted and settled the matter.
Without looking up from his ledger, the clerk pushed the form across the counter for a signature.
The museum owns nine hundred clocks, and no two of them have ever agreed about the hour.
He apologised in such a quiet voice that she had to ask him to apologise again.
Fresh snow erased the path, and the guide followed the fence posts down to the village.
What the photograph does not show is the crowd of boys laughing just behind the camera.
Vera chose the longer road through the vineyards because the shorter one made her think of work.
The committee decided, after three hours of debate, to meet again and decide on Tuesday.
Low tide uncovered the ribs of a fishing boat that no living person could name.
You could hear the quarry from our kitchen: two dull thuds, a pause, and then the birds again.
The violinist changed a broken string between movements while the audience pretended to cough.
We planned a voyage to the northern islands, but the treasury would only pay for the map.
A boy with a yellow umbrella stood at the crossing and waved politely to every lorry.
The thaw came early that year and carried off the footbridge, two sheds, and a rowing boat.
She keeps a jar of sea glass on the windowsill, and on bright mornings it colours the whole room.
Joyce usually waters the azaleas at dusk, when the heat has gone out of the stones.
The lecture on beetles was better attended than the wedding on the floor above.
Having lost the key, they lowered the youngest cousin through the pantry window.
There is a kind of silence, just after a train has passed, in which small noises return one by one.
The shepherd counted his flock aloud, reached forty seven, frowned, and started over.
Thick smoke hung above the foundry, and the sparrows took their quarrels to the churchyard.
In the margin somebody had written, in green ink, a single word: enough.
""".strip().splitlines()


def generated(count: int, seed: int, taken: set[str]) -> list[str]:
    """Return `count` new sentences of the grammar and add them to `taken`."""
    rng = random.Random(seed)
    fresh: list[str] = []
    while len(fresh) < count:
        sentence = _fill(rng.choice(TEMPLATES), rng)
        if sentence not in taken:
            taken.add(sentence)
            fresh.append(sentence)
    return fresh


def _fill(template: str, rng: random.Random) -> str:
    """Fill every slot, mend the article, and start with a capital."""
    for kind, words in WORDS.items():
        while (slot := "{" + kind + "}") in template:
            template = template.replace(slot, rng.choice(words), 1)
    words = template.split(" ")
    for i, word in enumerate(words[:-1]):
        if word.lower() == "a" and words[i + 1][0] in "aeiou" and words[i + 1] != "useful":
            words[i] = "an"
    text = " ".join(_plural(word) for word in words)
    return text[0].upper() + text[1:]


def _plural(word: str) -> str:
    """Mend the plurals that the templates made by adding an s."""
    stem = word.rstrip(".,?")
    tail = word[len(stem) :]
    if stem.endswith("ys") and stem[-3] not in "aeiou":
        return stem[:-2] + "ies" + tail
    return stem[:-1] + "es" + tail if stem.endswith(("chs", "sss")) else word

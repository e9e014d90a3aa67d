"""Which classes are known, negative and unknown in each open-set protocol, as data.

The five known/unknown splits of protocols without negatives are the same in ARPL (iCGY96/ARPL, split.py), in
sgvaze/osr_closed_set_all_you_need (data/open_set_splits/osr_splits.py) and in the GradMix authors' code. Where only
known classes are listed, all others of the data set are unknown. TinyImageNet's numbers index the sorted WordNet ids,
CIFAR-100's its fine labels.
"""

Classes = tuple[int | str, ...]
"""Class numbers, or how the names of classes begin."""
Table = tuple[tuple[int, ...], ...]
Names = tuple[Classes, ...]


def _table(text: str) -> Table:
    return tuple(tuple(int(number) for number in line.split()) for line in text.strip().splitlines())


MNIST = _table("""
2 4 5 9 8 3
3 2 6 9 4 0
5 8 3 2 4 6
3 7 8 4 0 5
6 3 4 9 8 2
""")
SVHN = _table("""
5 3 7 2 8 6
3 8 7 6 2 5
8 9 4 7 2 1
3 8 2 5 0 6
4 9 2 7 1 0
""")
CIFAR10 = _table("""
0 6 4 9 1 7
7 6 4 9 0 1
1 5 7 3 9 4
8 6 1 9 0 7
2 4 1 7 9 6
""")
CIFAR_PLUS = _table("""
4 7 9 1
6 7 1 9
9 6 1 7
6 4 9 1
1 0 9 8
""")
"""Known classes of CIFAR+10 and CIFAR+50, of CIFAR-10."""
CIFAR_PLUS_10_UNKNOWN = _table("""
30 25 1 9 8 0 46 52 49 71
41 9 49 40 73 60 48 30 95 71
8 9 49 40 73 60 48 95 30 71
95 60 30 73 46 49 68 99 8 71
33 2 3 97 46 21 64 63 88 43
""")
"""Unknown classes of CIFAR+10, of CIFAR-100."""
CIFAR_PLUS_50_UNKNOWN = _table("""
27 94 29 77 88 26 69 48 75 5 59 93 39 57 45 40 78 20 98 47 66 70 91 76 41 83 99 32 53 72 2 95 21 73 \
84 68 35 11 55 60 30 25 1 9 8 0 46 52 49 71
65 97 86 24 45 67 2 3 91 98 79 29 62 82 33 76 0 35 5 16 54 11 99 52 85 1 25 66 28 84 23 56 75 46 21 \
72 55 68 8 69 41 9 49 40 73 60 48 30 95 71
20 83 65 97 94 2 93 16 67 29 62 33 24 98 5 86 35 54 0 91 52 66 85 84 56 11 1 76 25 55 21 99 72 41 23 \
75 28 68 69 46 8 9 49 40 73 60 48 95 30 71
92 82 77 64 5 33 62 56 70 0 20 28 67 14 84 53 91 29 85 2 52 83 75 35 11 21 72 98 55 1 41 76 25 66 69 \
9 48 54 40 23 95 60 30 73 46 49 68 99 8 71
47 6 19 0 62 93 59 65 54 70 34 55 23 38 72 76 53 31 78 96 77 27 92 18 82 50 98 32 1 75 83 4 51 35 80 \
11 74 66 36 42 33 2 3 97 46 21 64 63 88 43
""")
"""Unknown classes of CIFAR+50, of CIFAR-100."""
TINYIMAGENET = _table("""
108 147 17 58 193 123 72 144 75 167 134 14 81 171 44 197 152 66 1 133
198 161 91 59 57 134 61 184 90 35 29 23 199 38 133 19 186 18 85 67
177 0 119 26 78 80 191 46 134 92 31 152 27 60 114 50 51 133 162 93
98 36 158 177 189 157 170 191 82 196 138 166 43 13 152 11 75 174 193 190
95 6 145 153 0 143 31 23 189 81 20 21 89 26 36 170 102 177 108 169
""")

# Protocols with negatives. Source: the thesis cited in `trainables.margins`, section 5.1, and its code.

TEN = (tuple(range(10)),)
"""All digits, in the one split there is."""
LETTERS_NEGATIVE = _table("0 1 2 3 4 5 7 9 10 12 13")
"""Of EMNIST's letters: a b c d e f h j k m n. The letters g, i, l, o look like digits and are left out."""
LETTERS_UNKNOWN = _table("15 16 17 18 19 20 21 22 23 24 25")
"""p to z."""
DIGITS_OTHERS = tuple(tuple(sorted({*range(10)} - {*known})) for known in MNIST)
"""The four digits that are not known. Ours, as what is made of them:"""
DIGITS_NEGATIVE = tuple(row[:2] for row in DIGITS_OTHERS)
"""the first two of them;"""
DIGITS_UNKNOWN = tuple(row[2:] for row in DIGITS_OTHERS)
"""the other two."""
OMNIGLOT_NEGATIVE: Names = (("Balinese/", "Greek/", "Korean/", "Sanskrit/"),)
"""Of eight alphabets in order of their names every other one. Some characters look like digits. Ours."""
OMNIGLOT_UNKNOWN: Names = (
    (
        "Early_Aramaic/",
        "Japanese_(katakana)/",
        *(f"Latin/character{place:02}" for place in range(1, 27) if place not in (7, 9, 12, 15)),
        "Tagalog/",
    ),
)
"""The other alphabets; of Latin without g, i, l, o."""
TINY_P2_KNOWN = _table("24 25 26 27 28 29")
"""Carnivores (n02075296) among TinyImageNet's classes: the first half in order of WordNet ids. As P2 does with dogs."""
TINY_P2_NEGATIVE = _table("30 31 32 33 34 35 58")
"""The other half."""
TINY_P2_UNKNOWN = _table("12 23 47 48 49 50 51 52 53 54 55 56 57")
"""All other mammals (n01861778)."""
TINY_P3_KNOWN = _table("0 11 21 24 26 28 33 36 38 40 42 44 56 70 97 108 116 121 142 199")
"""P3's rule on TinyImageNet: of each of its 13 superclasses the descendants j = 0, 1, ... with j even are known. As in
`trainables.imagenet_classes` over a tree, in which domestic cats are no felines, oranges, lemons, bananas and
pomegranates produce, and mashed potato is no vegetable. Fungi and computers have none."""
TINY_P3_NEGATIVE = _table("20 25 29 34 37 41 43 94 98 115 133")
"""j odd and not divisible by 3."""
TINY_P3_UNKNOWN = _table("""
4 5 22 27 39 45 48 49 50 51 52 53 60 62 74 77 85 90 105 112 119 120 134 149 150 153 158 169 183 184 185
""")
"""j odd and divisible by 3; and reptiles, clothing, ungulates, vegetables, aircraft."""

# Auxiliary and out-of-distribution sets beside CIFAR-10 (`trainables.outside`). Ours.

_LIKE_CIFAR10 = (2, 3, 11, 20, 21, 22, *range(24, 33), 52, 70, 94, 108, 115, 116, 121, 133, 153)
"""TinyImageNet's classes that CIFAR-10's contain, or could be taken for: see `trainables.outside`."""
_UNLIKE_CIFAR10 = tuple(number for number in range(200) if number not in _LIKE_CIFAR10)
TINY_NEAR = (_UNLIKE_CIFAR10[3::4],)
"""Every fourth of the others is held out for evaluation, 44 classes,"""
TINY_AUXILIARY = (tuple(number for number in _UNLIKE_CIFAR10 if number not in TINY_NEAR[0]),)
"""and 132 are trained on."""

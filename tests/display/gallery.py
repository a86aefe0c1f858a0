"""One document per display, with figures of one story, for tests of the drawers and for pictures.

1,000 short articles, of which 868 are long enough: `articles >> long_enough >> ask >> judge >>
keep_good`. The figures are invented and agree with each other.
"""

from __future__ import annotations

from collections.abc import Callable

from datafast_nb.display import sparks, worddiff
from datafast_nb.display.views import (
    AnyCell,
    Block,
    Cell,
    Column,
    ColumnKind,
    Document,
    Fact,
    Facts,
    Fold,
    Graph,
    GraphNode,
    Head,
    Inline,
    Legend,
    Line,
    Listing,
    Mark,
    MarkName,
    Paragraph,
    Row,
    Section,
    Span,
    Spark,
    Table,
    Tile,
    Tiles,
    Value,
    code,
    fields_marked,
    muted,
    strong,
)

DOT = muted("·")
OCTOPUS = (
    "An octopus has three hearts. Two branchial hearts push blood through the gills, and one systemic"
    " heart sends it on to the rest of the body. The systemic heart stops beating when the animal"
    " swims, which is one reason octopuses prefer to crawl: swimming tires them quickly. Their blood"
    " is blue because it carries oxygen with a copper protein called haemocyanin."
)
LIGHT = (
    "Light slows down in glass because it is absorbed and re-radiated by the electrons of the"
    " material, and the sum of the waves travels at a lower speed than in vacuum. The ratio of the two"
    " speeds is the refractive index, about 1.5 for window glass. Blue light is slowed a little more"
    " than red, which is why a prism spreads white light."
)
HANSE = (
    "The Hanseatic League was a network of merchant guilds and market towns around the Baltic and"
    " North Seas. It had no king, no treasury and no permanent army, yet from the 13th to the 17th"
    " century it controlled most of the trade in timber, furs, herring and grain in the region. Its"
    " last formal assembly met in 1669."
)
VENUS = (
    "Venus spins backwards compared with most planets, and very slowly: one turn takes 243 Earth days,"
    " longer than its year of 225 days. Seen from its surface the Sun would rise in the west. The"
    " thick atmosphere of carbon dioxide holds the heat, so night and day are both near 465 degrees"
    " Celsius."
)
VIOLIN = (
    "A violin string sounds at its fundamental and at whole multiples of it. The body of the"
    " instrument favours some of these overtones, and so two violins playing the same note can be"
    " told apart. A mute adds mass to the bridge and damps the high overtones most."
)
BAIKAL = (
    "Lake Baikal in Siberia is the deepest lake on Earth, at 1,642 metres, and holds about a fifth of"
    " all unfrozen fresh surface water. It lies in a rift where the crust is being pulled apart, so it"
    " grows wider by roughly two centimetres each year. About 80 per cent of its animal species live"
    " nowhere else."
)
RUST = (
    "Rust forms when iron meets both water and oxygen. Salt speeds the process since it makes the"
    " water a better conductor, and so cars near the coast rust sooner. Zinc coating protects steel"
    " even where it is scratched, because zinc gives up its electrons more readily than iron and"
    " corrodes first."
)
BEES = (
    "Honeybees tell each other where flowers are by dancing. The angle of the waggle run against the"
    " vertical gives the direction relative to the Sun, and its duration gives the distance: about"
    " one second for each kilometre. Bees that follow the dance read it in the dark of the hive by"
    " touch."
)
MIRAGE = (
    "A mirage on a hot road is an image of the sky. Air near the asphalt is hotter and thinner than"
    " the air above, so light from the sky that comes in at a flat angle is bent upwards into the"
    " eye. The brain assumes that light travels straight and places the bright patch on the ground,"
    " where it looks like water."
)
METRE = (
    "Before the metric system, France alone used several hundred thousand local measures, often with"
    " the same name but different sizes. The reform of 1795 defined the metre from the Earth itself,"
    " as one ten-millionth of the distance from the pole to the equator through Paris."
)
CORK = (
    "Cork is the bark of an oak that grows it anew. The first harvest comes when a tree is about 25"
    " years old, and later ones every nine years, without felling the tree. Each cubic centimetre has"
    " some 40 million cells filled with air, which is why cork floats, insulates and springs back."
)
WHY_CRAWL = "Why do octopuses prefer crawling to swimming?"
HEART = "The systemic heart stops beating while an octopus swims, so swimming tires it quickly."
WHICH_GOODS = "Which goods did the Hanseatic League mainly trade?"
GOODS = "Timber, furs, herring and grain, around the Baltic and the North Sea."
INDEX = "What does the refractive index of a material compare?"
RATIO = (
    "It is the ratio of the speed of light in vacuum to its speed in the material, about 1.5 for"
    " window glass."
)
WHY_VENUS = "Why is a day on Venus longer than its year?"
VENUS_TURNS = (
    "Venus turns once in 243 Earth days but circles the Sun in 225, so its rotation takes longer than"
    " its orbit."
)
WHY_ZINC = "Why does a scratched zinc coating still protect steel?"
KEPT: tuple[tuple[MarkName, str, str, str, str, int], ...] = (
    ("memo", "Biology", OCTOPUS, WHY_CRAWL, HEART, 9),
    ("memo", "Physics", LIGHT, INDEX, RATIO, 9),
    ("new", "History", HANSE, WHICH_GOODS, GOODS, 8),
    ("memo", "Astronomy", VENUS, WHY_VENUS, VENUS_TURNS, 8),
    (
        "memo",
        "Geography",
        BAIKAL,
        "How much of the world's fresh surface water does Lake Baikal hold?",
        "About a fifth of all unfrozen fresh surface water.",
        8,
    ),
    (
        "new",
        "Chemistry",
        RUST,
        WHY_ZINC,
        "Zinc gives up electrons more readily than iron, so it corrodes first and the steel is spared.",
        10,
    ),
    (
        "memo",
        "Biology",
        BEES,
        "How does a honeybee's dance show the distance to flowers?",
        "By the duration of the waggle run: about one second for each kilometre.",
        9,
    ),
    (
        "new",
        "Physics",
        MIRAGE,
        "What does a driver really see in the wet patch on a hot road?",
        "An image of the sky, bent upwards by the hot air above the asphalt.",
        7,
    ),
    (
        "memo",
        "History",
        METRE,
        "How was the metre first defined?",
        "As one ten-millionth of the distance from the pole to the equator, measured through Paris in"
        " the reform of 1795.",
        8,
    ),
    (
        "memo",
        "Biology",
        CORK,
        "How often can a cork oak be harvested?",
        "Every nine years after a first harvest at about 25 years, without felling the tree.",
        7,
    ),
)
ASK_SYSTEM = "You write one question and its answer from a short article. Use only the article."
ASK_USER = (
    "Article (topic: {topic}):\n{text}\n\n"
    "Write a question a curious reader would ask, and answer it in one or two sentences."
)
ASK_USER_2 = (
    "Article (topic: {topic}):\n{text}\n\n"
    "Write a question that needs a reason, not a fact, and answer it in one short sentence."
)
JUDGE_SYSTEM = (
    "Rate from 1 to 10 how well the answer follows from the article. Reply with the number and one"
    " reason."
)
JUDGE_USER = "Article:\n{text}\n\nQuestion: {question}\nAnswer: {answer}"


def result() -> Document:
    """A limited run: what it cost and lost, ten rows, one record in full, errors, ledger, graph."""
    return Document(
        (
            Head("15 records", ("limited run: 20 of 868 articles ", DOT, " finished in 9.2 s")),
            Legend(
                (
                    (Mark("new"), " 16 new calls, paid $0.0015"),
                    (Mark("memo"), " 24 from the memo, saved $0.0021"),
                    (Mark("failed"), " 1 failed, wasted $0.00023"),
                    (Mark("filtered"), " 7 filtered"),
                )
            ),
            Tiles(
                (
                    Tile("articles", "23", (("read",), (muted("of 1,000"),)), 1.0),
                    Tile("long_enough", "20", (("3 filtered",), (muted("free"),)), 20 / 23),
                    Tile(
                        "ask",
                        "19",
                        ((Mark("failed"), " 1 failed"), (muted("12 memo, 9 new"),)),
                        19 / 23,
                    ),
                    Tile("judge", "19", (("all kept",), (muted("12 memo, 7 new"),)), 19 / 23),
                    Tile("keep_good", "15", (("4 filtered",), (muted("free"),)), 15 / 23),
                )
            ),
            Table(_columns(with_sparks=True), _result_rows()),
            Paragraph(
                (
                    muted("10 of 15 shown, all in "),
                    code("res.df"),
                    muted(" · … +n: characters left, click to read them"),
                ),
                is_note=True,
            ),
            Fold(
                "Record 0 in full",
                (muted("prompt as sent → raw reply → parsed fields"),),
                (
                    *_call(
                        "ask",
                        " gpt-4o-mini · 412 → 86 tokens · $0.00011 · asked 20 Nov 16:04, 0.81 s",
                        ASK_SYSTEM,
                        _filled(ASK_USER),
                        f'{{"question": "{WHY_CRAWL}", "answer": "{HEART}"}}',
                        (("question", WHY_CRAWL), ("answer", HEART)),
                    ),
                    *_call(
                        "judge",
                        " gpt-4o-mini · 305 → 24 tokens · $0.000060 · asked 20 Nov 16:04, 0.52 s",
                        JUDGE_SYSTEM,
                        _filled(JUDGE_USER),
                        '{"score": 9, "reason": "Correct and complete; stated in the second and'
                        ' third sentence."}',
                        (("score", "9"),),
                    ),
                    Paragraph(
                        (
                            muted("Any other: "),
                            code("res[3]"),
                            muted(" · one value: "),
                            code('res.why(3, "score")'),
                        ),
                        is_note=True,
                    ),
                ),
            ),
            Fold("Errors", (muted("1 record, 1 cause"),), (_errors(),)),
            Fold(
                "Ledger",
                (muted("40 calls · paid $0.0015 · saved $0.0021 · wasted $0.00023"),),
                (
                    _ledger(),
                    Paragraph(
                        (
                            "List prices of gpt-4o-mini, $0.15 in and $0.60 out per 1M tokens"
                            " (genai-prices 0.2.3). Wasted: replies that gave no record.",
                        ),
                        is_note=True,
                    ),
                ),
            ),
            Fold(
                "Graph",
                (muted("5 steps, 2 call a model (thicker frame)"),),
                (
                    _graph(
                        ("23 records", "read"),
                        ("20 records", "3 filtered"),
                        ("19 records", "12 memo, 9 new", "1 failed"),
                        ("19 records", "12 memo, 7 new"),
                        ("15 records", "4 filtered"),
                    ),
                ),
            ),
        )
    )


def pipeline() -> Document:
    """Before a run: graph, estimate, preview with pending rows, prompts."""
    return Document(
        (
            Head("qa_pairs", ("pipeline of 5 steps ", DOT, " not run")),
            _graph(
                ("1,000 records", "list"),
                ("868 records", "132 filtered"),
                ("868 calls", "2 memo, 866 new", "$0.10"),
                ("≤ 868 calls", "2 memo, 866 new", "$0.053"),
                ("unknown", "depends on score"),
            ),
            Section(
                "Full run",
                (muted("if started now; nothing has been asked for this display"),),
                (
                    Tiles(
                        (
                            Tile("cost", "$0.15", ((muted("$0.13–0.27"),),)),
                            Tile(
                                "calls",
                                "1.7k",
                                ((Mark("memo"), " 4 in the memo, ", Mark("new"), " 1.7k new"),),
                            ),
                            Tile("time", "1 min 20 s", ((muted("1 to 3 min"),),)),
                            Tile("records", "868", ((muted("of 1,000 articles"),),)),
                        )
                    ),
                    Paragraph(
                        (
                            "Prompts measured on 20 records, list prices of gpt-4o-mini. Lengths of"
                            " replies from the 2 answers in the memo; the upper bound is max_tokens.",
                        ),
                        is_note=True,
                    ),
                ),
            ),
            Section(
                "Preview",
                (
                    muted(
                        "first 5 of 1,000 records; free steps computed, replies only from the memo"
                    ),
                ),
                (Table(_columns(), _preview_rows()),),
            ),
            Paragraph(
                (
                    muted("Next: "),
                    code("pipe.run_one(3)"),
                    muted(" 2 calls, about $0.00018 · "),
                    code("pipe.run(limit=20)"),
                    muted(" 36 new calls, about $0.0032 · "),
                    code("pipe.panel()"),
                ),
                is_note=True,
            ),
            Fold(
                "ask",
                (
                    muted(
                        "LLMStep · gpt-4o-mini · temperature 0.7 · reads topic, text · writes"
                        " question, answer"
                    ),
                ),
                (
                    Facts(
                        (
                            Fact(
                                "template",
                                (Listing(fields_marked(f"{ASK_SYSTEM}\n\n{ASK_USER}")),),
                            ),
                            Fact(
                                "first pending",
                                (
                                    Paragraph(
                                        (muted("record 3, exactly as it would be sent"),),
                                        is_note=True,
                                    ),
                                    Listing(
                                        (
                                            f"{ASK_SYSTEM}\n\n"
                                            + ASK_USER.replace("{topic}", "History").replace(
                                                "{text}", HANSE
                                            ),
                                        )
                                    ),
                                ),
                            ),
                            Fact(
                                "memo",
                                (
                                    "2 of 868 answered. 866 are new: ",
                                    muted("not asked before"),
                                ),
                            ),
                        ),
                        is_ruled=True,
                    ),
                ),
            ),
            Fold(
                "judge",
                (
                    muted(
                        "Score · gpt-4o-mini · temperature 0 · reads text, question, answer ·"
                        " writes score (1 to 10)"
                    ),
                ),
                (
                    Facts(
                        (
                            Fact(
                                "template",
                                (Listing(fields_marked(f"{JUDGE_SYSTEM}\n\n{JUDGE_USER}")),),
                            ),
                            Fact(
                                "memo",
                                ("2 of up to 868 answered. The others wait for ", code("ask")),
                            ),
                        ),
                        is_ruled=True,
                    ),
                ),
            ),
            Fold(
                "3 free steps",
                (muted("articles, long_enough, keep_good"),),
                (
                    Facts(
                        (
                            Fact("articles", ("list of 1,000 records: id, topic, text",)),
                            Fact(
                                "long_enough",
                                (
                                    code('Filter(lambda r: len(r["text"].split()) >= 40)'),
                                    muted(" · keeps 868 of 1,000"),
                                ),
                            ),
                            Fact("keep_good", (code('Filter(where={"score": {"$gte": 7}})'),)),
                        ),
                        is_ruled=True,
                    ),
                ),
            ),
        )
    )


def problem() -> Document:
    """A pipeline that cannot run."""
    names = ("articles", "long_enough", "ask", "judge", "keep_good")
    lines: tuple[tuple[str, ...], ...] = (
        ("1,000 records", "list"),
        ("868 records", "132 filtered"),
        ("no column txt",),
        ("waits for ask",),
        ("no column mark",),
    )
    nodes = tuple(
        GraphNode(
            name,
            tuple((line,) for line in said),
            is_paid=name in ("ask", "judge"),
            has_problem=name in ("ask", "keep_good"),
        )
        for name, said in zip(names, lines, strict=True)
    )
    rows: tuple[Row, ...] = (
        (
            Cell((Mark("failed"), " ask")),
            Cell(
                ("reads column ", code("txt"), ", which no earlier step provides"),
                (("columns here: id, topic, text",),),
            ),
            Cell(("did you mean ", code("{text}"), "?")),
            Cell(("cell 7, line 3",)),
        ),
        (
            Cell((Mark("failed"), " keep_good")),
            Cell(
                ("filters on column ", code("mark"), ", which no earlier step provides"),
                (("columns here: id, topic, text, question, answer, score",),),
            ),
            Cell(("did you mean ", code("score"), "?")),
            Cell(("cell 7, line 9",)),
        ),
        (
            Cell((Mark("warning"), " ask")),
            Cell((code("num_outputs=3"), " at temperature 0 gives three times the same answer")),
            Cell(("set ", code("temperature=0.7"), " or drop ", code("num_outputs"))),
            Cell(("cell 7, line 3",)),
        ),
    )
    return Document(
        (
            Head(
                "qa_pairs",
                (
                    "pipeline of 5 steps ",
                    DOT,
                    " ",
                    Mark("failed"),
                    " 2 problems, cannot run ",
                    DOT,
                    " ",
                    Mark("warning"),
                    " 1 warning",
                ),
            ),
            Graph(nodes, _chain(5)),
            Table(
                (
                    Column("step", "word"),
                    Column("problem"),
                    Column("fix"),
                    Column("written at", "word"),
                ),
                rows,
            ),
            Paragraph(
                ("No estimate and no preview until the problems are gone. Nothing was asked.",),
                is_note=True,
            ),
        )
    )


def trace() -> Document:
    """One record through the steps."""
    rows: tuple[Row, ...] = (
        (
            Cell((strong("articles"),), (("source",),)),
            Cell(body=(_gained(("id", "a03"), ("topic", "History"), ("text", HANSE)),)),
            Cell(("read",), (("row a03, 3 of 1,000",),)),
        ),
        (
            Cell((strong("long_enough"),), (("filter",),)),
            Cell(("58 words, 40 asked for",)),
            Cell((Mark("kept"), " kept"), (("free",),)),
        ),
        (
            Cell((strong("ask"),), (("LLMStep",),)),
            Cell(
                body=(
                    _gained(("question", WHICH_GOODS), ("answer", GOODS)),
                    _sent(
                        "gpt-4o-mini · 398 → 88 tokens",
                        ASK_SYSTEM,
                        ASK_USER.replace("{topic}", "History").replace("{text}", HANSE),
                        f'{{"question": "{WHICH_GOODS}", "answer": "{GOODS}"}}',
                    ),
                )
            ),
            Cell((Mark("new"), " new"), (("$0.00012 · 0.86 s",),)),
        ),
        (
            Cell((strong("judge"),), (("Score",),)),
            Cell(
                body=(
                    _gained(("score", "8")),
                    _sent(
                        "gpt-4o-mini · 301 → 27 tokens",
                        JUDGE_SYSTEM,
                        JUDGE_USER.replace("{text}", HANSE)
                        .replace("{question}", WHICH_GOODS)
                        .replace("{answer}", GOODS),
                        '{"score": 8, "reason": "Correct list; the period is left out."}',
                    ),
                )
            ),
            Cell((Mark("new"), " new"), (("$0.000061 · 0.54 s",),)),
        ),
        (
            Cell((strong("keep_good"),), (("filter",),)),
            Cell(("score 8, at least 7 asked for",)),
            Cell((Mark("kept"), " kept"), (("free",),)),
        ),
    )
    return Document(
        (
            Head("Record 3", ("1 record out ", DOT, " passed 5 steps")),
            Legend(
                ((Mark("new"), " 2 new calls, paid $0.00018"), ("1.4 s",), ("kept by keep_good",))
            ),
            Table(
                (Column("step", "word"), Column("what the record gained"), Column("fate", "word")),
                rows,
            ),
            Paragraph(
                (
                    muted("As a dict: "),
                    code('one["answer"]'),
                    muted(" · next record: "),
                    code("pipe.run_one(4)"),
                ),
                is_note=True,
            ),
        )
    )


def diff() -> Document:
    """Two versions of a prompt on the same records."""
    return Document(
        (
            Head("ask, v1 → v2", ("same 5 records ", DOT, " 4 answers differ, 1 is identical")),
            Legend(
                (
                    (Mark("new"), " 9 new calls, paid $0.00073"),
                    (Mark("memo"), " 11 from the memo, saved $0.00095"),
                )
            ),
            Section(
                "Prompt",
                (muted("user message; the system message is the same"),),
                (Listing(_prompt_change()),),
            ),
            _figures(
                ("ask, scaled to 1,000 records", "v1", "v2", "change"),
                ("cost", "$0.12", "$0.098", "−16%"),
                ("tokens out, mean", "90", "61", "−32%"),
                ("time per call, median", "0.84 s", "0.67 s", "−20%"),
                ("unusable replies", "0 of 5", "0 of 5", "same"),
                ("score, mean of 5", "8.8", "8.8", "1 better, 1 worse"),
            ),
            Table(
                (
                    Column("", "index"),
                    Column("field", "word"),
                    Column("v1", "written"),
                    Column("v2", "written"),
                    Column("score", "number"),
                ),
                (
                    *_compared(
                        "0",
                        "9",
                        (WHY_CRAWL, WHY_CRAWL),
                        (
                            HEART,
                            "Swimming tires an octopus quickly, because its systemic heart stops"
                            " beating.",
                        ),
                    ),
                    *_compared(
                        "1",
                        "9",
                        (INDEX, "Why does a prism spread white light?"),
                        (RATIO, "Because glass slows blue light a little more than red."),
                    ),
                    *_compared(
                        "2",
                        "8 → 7",
                        (WHICH_GOODS, "Why did the Hanseatic League need no king?"),
                        (GOODS, "Because its guilds and towns controlled the trade together."),
                    ),
                    *_compared(
                        "3",
                        "8 → 9",
                        (WHY_VENUS, WHY_VENUS),
                        (
                            VENUS_TURNS,
                            "Venus turns once in 243 Earth days but circles the Sun in 225.",
                        ),
                    ),
                    (
                        Cell(("5",)),
                        Cell(("both",)),
                        Cell((muted("identical: "), WHY_ZINC), span=2),
                        Cell(("10",)),
                    ),
                ),
            ),
            Paragraph(
                (
                    muted(
                        "Removed words are struck through, new words underlined. Keep the second: "
                    ),
                    code("cmp.b.pipeline"),
                ),
                is_note=True,
            ),
        )
    )


def estimate() -> Document:
    """Cost before a run, per step, with its basis."""
    return Document(
        (
            Head("$0.15", ("for a full run, range $0.13–0.27 ", DOT, " about 1 min 20 s")),
            Legend(
                (
                    (Mark("new"), " 1,732 new calls"),
                    (Mark("memo"), " 4 in the memo, saving $0.00035"),
                    ("868 of 1,000 articles",),
                )
            ),
            _figures(
                (
                    "step",
                    "records",
                    "memo",
                    "new",
                    "tokens in",
                    "out",
                    "cost",
                    "range",
                    "time",
                ),
                ("articles", "1,000", "", "", "", "", "free", "", ""),
                ("long_enough", "868", "", "", "", "", "free", "", ""),
                ("ask", "868", "2", "866", "357k", "78k", "$0.10", "$0.079–0.21", "50 s"),
                ("judge", "≤ 868", "2", "866", "264k", "23k", "$0.053", "$0.050–0.060", "30 s"),
                ("keep_good", "unknown", "", "", "", "", "free", "", ""),
                total=(
                    "total",
                    "",
                    "4",
                    "1,732",
                    "621k",
                    "101k",
                    "$0.15",
                    "$0.13–0.27",
                    "1 min 20 s",
                ),
            ),
            Facts(
                (
                    Fact("tokens in", ("measured on 20 records",)),
                    Fact(
                        "tokens out",
                        (
                            "mean of the 2 answers in the memo; range from the shorter one to"
                            " max_tokens",
                        ),
                    ),
                    Fact(
                        "price",
                        ("gpt-4o-mini, $0.15 in and $0.60 out per 1M tokens, genai-prices 0.2.3",),
                    ),
                    Fact("time", ("median of 2 calls, 16 in flight",)),
                    Fact("new because", ("not asked before: 866 of ask; judge waits for them",)),
                    Fact("not counted", ("calls asked again after an unusable reply",)),
                )
            ),
        )
    )


def cards() -> Document:
    """A model, and a grid of seeds."""
    return Document(
        (
            Head("gpt-4o-mini", ("openai ", DOT, " ", Mark("kept"), " key set")),
            Facts(
                (
                    Fact("price", ("$0.15 in, $0.60 out per 1M tokens", muted(" · 20 Nov 2025"))),
                    Fact("limits", ("16 calls in flight",)),
                    Fact("so far", ("16 calls, paid $0.0015",)),
                )
            ),
            Section(
                "Seed",
                (muted("6 records: 3 topics × 2 levels"),),
                (
                    Table(
                        (
                            Column("topic", "word"),
                            Column("easy", "number"),
                            Column("hard", "number"),
                        ),
                        tuple(
                            (Value(topic), Value(1), Value(1))
                            for topic in ("Biology", "Physics", "History")
                        ),
                        (Cell(("total",)), Value(3), Value(3)),
                    ),
                ),
            ),
        )
    )


GALLERY: dict[str, Callable[[], Document]] = {
    "result": result,
    "pipeline": pipeline,
    "problem": problem,
    "trace": trace,
    "diff": diff,
    "estimate": estimate,
    "cards": cards,
}
"""Documents by the name of their display."""


def _columns(*, with_sparks: bool = False) -> tuple[Column, ...]:
    words = "number of words, "
    columns: tuple[tuple[str, ColumnKind, tuple[int, ...], str, str], ...] = (
        (
            "topic",
            "word",
            (5, 3, 3, 2, 1, 1),
            "Biology 5, Physics 3, History 3, Astronomy 2, Geography 1, Chemistry 1",
            "6 values",
        ),
        ("text", "text", (2, 4, 5, 3, 1), f"{words}45 to 96", "45–96 words"),
        ("question", "written", (3, 5, 4, 2, 1), f"{words}6 to 14", "6–14 words"),
        ("answer", "written", (2, 3, 6, 3, 1), f"{words}8 to 27", "8–27 words"),
        (
            "score",
            "number",
            (3, 6, 5, 1),
            "score 7: 3, score 8: 6, score 9: 5, score 10: 1",
            "mean 8.3",
        ),
    )
    shown = (
        Column(name, kind, Spark(sparks.bars(counts), said), note)
        if with_sparks
        else Column(name, kind)
        for name, kind, counts, said, note in columns
    )
    return (Column("", "index"), Column("status", "status"), *shown)


def _result_rows() -> tuple[Row, ...]:
    rows = [_kept(i) for i in range(len(KEPT))]
    lost: Row = (
        Cell(("–",)),
        Cell((Mark("failed"), " failed")),
        Value("Music"),
        Value(VIOLIN),
        Cell(
            (
                strong("failed at ask"),
                ": no ",
                code("answer"),
                " in the reply, 2 tries ",
                muted("· kept in "),
                code("res.errors"),
            ),
            span=3,
        ),
    )
    return (*rows[:4], lost, *rows[4:])


def _kept(i: int) -> Row:
    mark, *values = KEPT[i]
    return (Cell((str(i),)), Cell((Mark(mark), f" {mark}")), *map(Value, values))


def _preview_rows() -> tuple[Row, ...]:
    filtered: Row = (
        Cell(("2",)),
        Cell((Mark("filtered"), " filtered")),
        Value("Music"),
        Value("Baroque lutes carried up to 24 strings."),
        Cell((muted("filtered at long_enough: 7 words, 40 asked for"),), span=3),
    )
    pending = (
        (
            Cell((index,)),
            Cell((Mark("pending"), " pending")),
            Value(topic),
            Value(text),
            Cell((muted("1 call of ask, then 1 of judge"),), span=3, is_pending=True),
        )
        for index, topic, text in (("3", "History", HANSE), ("4", "Astronomy", VENUS))
    )
    return (_kept(0), _kept(1), filtered, *pending)


def _filled(template: str) -> str:
    record = KEPT[0]
    for name, value in zip(("topic", "text", "question", "answer"), record[1:5], strict=True):
        template = template.replace(f"{{{name}}}", str(value))
    return template


def _call(
    step: str,
    facts: str,
    system: str,
    user: str,
    reply: str,
    parsed: tuple[tuple[str, str], ...],
) -> tuple[Block, ...]:
    return (
        Paragraph((strong(step), " ", Mark("memo"), " memo ", muted(facts))),
        Facts(
            (
                Fact("1 sent as system", (Listing((system,)),)),
                Fact("sent as user", (Listing((user,)),)),
                Fact("2 raw reply", (Listing((reply,)),)),
                Fact("3 parsed", (Facts(tuple(Fact(n, (v,)) for n, v in parsed)),)),
            ),
            is_ruled=True,
        ),
    )


def _errors() -> Table:
    row: Row = (
        Cell(("1",)),
        Cell(("ask",)),
        Cell((Mark("failed"), " reply lacks a field"), ((code("answer"), " missing, 2 tries"),)),
        Cell(
            (),
            (("row a05, Music",),),
            listing=Listing(('{"question": "Why can two violins be told apart?"}',)),
        ),
        Cell((code("res.retry_failed()"),), (("asks this one again, about $0.00012",),)),
    )
    return Table(
        (
            Column("records", "number"),
            Column("step", "word"),
            Column("cause"),
            Column("first example"),
            Column("what to do"),
        ),
        (row,),
    )


def _ledger() -> Table:
    return _figures(
        ("step", "memo", "new", "tokens in", "out", "paid", "saved", "wasted", "median"),
        ("ask", "12", "9", "3.7k", "790", "$0.0010", "$0.0014", "$0.00023", "0.84 s"),
        ("judge", "12", "7", "2.1k", "180", "$0.00043", "$0.00074", "–", "0.51 s"),
        total=("total", "24", "16", "5.8k", "970", "$0.0015", "$0.0021", "$0.00023", ""),
    )


def _figures(
    names: tuple[str, ...], *rows: tuple[str, ...], total: tuple[str, ...] | None = None
) -> Table:
    """A table with words in its first column and figures in the others."""
    columns = tuple(Column(name, "number" if i else "word") for i, name in enumerate(names))
    shown = tuple(tuple(Cell((word,)) for word in row) for row in rows)
    return Table(columns, shown, tuple(Cell((w,)) for w in total) if total else None)


def _graph(*lines: tuple[str, ...]) -> Graph:
    names = ("articles", "long_enough", "ask", "judge", "keep_good")
    nodes = tuple(
        GraphNode(name, _node_lines(said), is_paid=name in ("ask", "judge"))
        for name, said in zip(names, lines, strict=True)
    )
    return Graph(nodes, _chain(len(nodes)))


def _node_lines(said: tuple[str, ...]) -> tuple[Line, ...]:
    return tuple((muted(line),) if i else (line,) for i, line in enumerate(said))


def _chain(n: int) -> tuple[tuple[int, int], ...]:
    return tuple((i, i + 1) for i in range(n - 1))


def _gained(*fields: tuple[str, str]) -> Facts:
    """What a step added to a record."""
    return Facts(tuple(Fact(f"+ {name}", (value,)) for name, value in fields))


def _sent(facts: str, system: str, user: str, reply: str) -> Fold:
    return Fold(
        "prompt as sent → raw reply",
        (muted(facts),),
        (
            Facts(
                (
                    Fact("system", (Listing((system,)),)),
                    Fact("user", (Listing((user,)),)),
                    Fact("raw reply", (Listing((reply,)),)),
                ),
                is_ruled=True,
            ),
        ),
    )


def _prompt_change() -> Line:
    """Both prompts in one line, what is new a space behind what it replaces."""
    out: list[Inline] = []
    for part in worddiff.merged(ASK_USER, ASK_USER_2):
        if isinstance(part, Span) and part.style == "inserted":
            out.append(" ")
        out.append(part)
    return tuple(out)


def _compared(index: str, score: str, *fields: tuple[str, str]) -> tuple[Row, ...]:
    """Rows of a record, one per field; only the first has the index and the score."""
    rows: list[Row] = []
    for i, (name, (a, b)) in enumerate(zip(("question", "answer"), fields, strict=True)):
        before, after = worddiff.words(a, b)
        second: tuple[Inline, ...] = (muted("same"),) if a == b else after
        row: tuple[AnyCell, ...] = (
            Cell(() if i else (index,)),
            Cell((name,)),
            Cell(before),
            Cell(second),
            Cell(() if i else (score,)),
        )
        rows.append(row)
    return tuple(rows)

"""One document per display, with figures of one story, for tests of the drawers and for pictures.

`articles >> long_enough >> ask >> judge >> keep_good`; the figures are invented and agree with
each other.
"""

from __future__ import annotations

from collections.abc import Callable

from story import (
    ASK_SYSTEM,
    ASK_USER,
    DOT,
    GOODS,
    HANSE,
    HEART,
    INDEX,
    JUDGE_SYSTEM,
    JUDGE_USER,
    RATIO,
    VENUS_TURNS,
    WHICH_GOODS,
    WHY_CRAWL,
    WHY_VENUS,
    WHY_ZINC,
    call,
    chain,
    columns,
    compared,
    errors,
    figures,
    filled,
    gained,
    graph,
    ledger,
    preview_rows,
    prompt_change,
    result_rows,
    sent,
)

from datafast_nb.display.views import (
    Cell,
    Column,
    Document,
    Fact,
    Facts,
    Fold,
    Graph,
    GraphNode,
    Head,
    Legend,
    Listing,
    Mark,
    Paragraph,
    Row,
    Section,
    Table,
    Tile,
    Tiles,
    Value,
    code,
    fields_marked,
    muted,
    strong,
)


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
            Table(columns(with_sparks=True), result_rows()),
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
                    *call(
                        "ask",
                        " gpt-4o-mini · 412 → 86 tokens · $0.00011 · asked 20 Nov 16:04, 0.81 s",
                        ASK_SYSTEM,
                        filled(ASK_USER),
                        f'{{"question": "{WHY_CRAWL}", "answer": "{HEART}"}}',
                        (("question", WHY_CRAWL), ("answer", HEART)),
                    ),
                    *call(
                        "judge",
                        " gpt-4o-mini · 305 → 24 tokens · $0.000060 · asked 20 Nov 16:04, 0.52 s",
                        JUDGE_SYSTEM,
                        filled(JUDGE_USER),
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
            Fold("Errors", (muted("1 record, 1 cause"),), (errors(),)),
            Fold(
                "Ledger",
                (muted("40 calls · paid $0.0015 · saved $0.0021 · wasted $0.00023"),),
                (
                    ledger(),
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
                    graph(
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
            graph(
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
                (Table(columns(), preview_rows()),),
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
                                "template", (Listing(fields_marked(f"{ASK_SYSTEM}\n\n{ASK_USER}")),)
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
                                ("2 of 868 answered. 866 are new: ", muted("not asked before")),
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
            Graph(nodes, chain(5)),
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
            Cell(body=(gained(("id", "a03"), ("topic", "History"), ("text", HANSE)),)),
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
                    gained(("question", WHICH_GOODS), ("answer", GOODS)),
                    sent(
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
                    gained(("score", "8")),
                    sent(
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
                (Listing(prompt_change()),),
            ),
            figures(
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
                    *compared(
                        "0",
                        "9",
                        (WHY_CRAWL, WHY_CRAWL),
                        (
                            HEART,
                            "Swimming tires an octopus quickly, because its systemic heart stops"
                            " beating.",
                        ),
                    ),
                    *compared(
                        "1",
                        "9",
                        (INDEX, "Why does a prism spread white light?"),
                        (RATIO, "Because glass slows blue light a little more than red."),
                    ),
                    *compared(
                        "2",
                        "8 → 7",
                        (WHICH_GOODS, "Why did the Hanseatic League need no king?"),
                        (GOODS, "Because its guilds and towns controlled the trade together."),
                    ),
                    *compared(
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
            figures(
                ("step", "records", "memo", "new", "tokens in", "out", "cost", "range", "time"),
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

"""1,000 short articles, of which 868 are long enough, on their way through five steps.

The texts, and the tables, graphs and folds that the documents of the gallery are made of.
"""

from __future__ import annotations

from datafast_nb.display import sparks, worddiff
from datafast_nb.display.views import (
    AnyCell,
    Block,
    Cell,
    Column,
    ColumnKind,
    Fact,
    Facts,
    Fold,
    Graph,
    GraphNode,
    Inline,
    Line,
    Listing,
    Mark,
    MarkName,
    Paragraph,
    Row,
    Span,
    Spark,
    Table,
    Value,
    code,
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


def columns(*, with_sparks: bool = False) -> tuple[Column, ...]:
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


def result_rows() -> tuple[Row, ...]:
    rows = [kept(i) for i in range(len(KEPT))]
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


def kept(i: int) -> Row:
    mark, *values = KEPT[i]
    return (Cell((str(i),)), Cell((Mark(mark), f" {mark}")), *map(Value, values))


def preview_rows() -> tuple[Row, ...]:
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
    return (kept(0), kept(1), filtered, *pending)


def filled(template: str) -> str:
    record = KEPT[0]
    for name, value in zip(("topic", "text", "question", "answer"), record[1:5], strict=True):
        template = template.replace(f"{{{name}}}", str(value))
    return template


def call(
    step: str, facts: str, system: str, user: str, reply: str, parsed: tuple[tuple[str, str], ...]
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


def errors() -> Table:
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


def ledger() -> Table:
    return figures(
        ("step", "memo", "new", "tokens in", "out", "paid", "saved", "wasted", "median"),
        ("ask", "12", "9", "3.7k", "790", "$0.0010", "$0.0014", "$0.00023", "0.84 s"),
        ("judge", "12", "7", "2.1k", "180", "$0.00043", "$0.00074", "–", "0.51 s"),
        total=("total", "24", "16", "5.8k", "970", "$0.0015", "$0.0021", "$0.00023", ""),
    )


def figures(
    names: tuple[str, ...], *rows: tuple[str, ...], total: tuple[str, ...] | None = None
) -> Table:
    """A table with words in its first column and figures in the others."""
    columns = tuple(Column(name, "number" if i else "word") for i, name in enumerate(names))
    shown = tuple(tuple(Cell((word,)) for word in row) for row in rows)
    return Table(columns, shown, tuple(Cell((w,)) for w in total) if total else None)


def graph(*lines: tuple[str, ...]) -> Graph:
    names = ("articles", "long_enough", "ask", "judge", "keep_good")
    nodes = tuple(
        GraphNode(name, node_lines(said), is_paid=name in ("ask", "judge"))
        for name, said in zip(names, lines, strict=True)
    )
    return Graph(nodes, chain(len(nodes)))


def node_lines(said: tuple[str, ...]) -> tuple[Line, ...]:
    return tuple((muted(line),) if i else (line,) for i, line in enumerate(said))


def chain(n: int) -> tuple[tuple[int, int], ...]:
    return tuple((i, i + 1) for i in range(n - 1))


def gained(*fields: tuple[str, str]) -> Facts:
    """What a step added to a record."""
    return Facts(tuple(Fact(f"+ {name}", (value,)) for name, value in fields))


def sent(facts: str, system: str, user: str, reply: str) -> Fold:
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


def prompt_change() -> Line:
    """Both prompts in one line, what is new a space behind what it replaces."""
    out: list[Inline] = []
    for part in worddiff.merged(ASK_USER, ASK_USER_2):
        if isinstance(part, Span) and part.style == "inserted":
            out.append(" ")
        out.append(part)
    return tuple(out)


def compared(index: str, score: str, *fields: tuple[str, str]) -> tuple[Row, ...]:
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

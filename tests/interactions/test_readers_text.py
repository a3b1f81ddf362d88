"""MovieLens, MIND and HetRec: delimited text in the layouts of their publishers."""

import gzip

import pytest

from tests.interactions.both_forms import read


def write(folder, files):
    for name, content in files.items():
        content = content.encode() if isinstance(content, str) else content
        (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)


def movie_100k(number, title, *flags):
    genres = ("1" if place in flags else "0" for place in range(19))
    return "|".join([number, title, "01-Jan-1995", "", "http://x", *genres])


def test_movielens_100k(tmp_path):
    movies = [movie_100k("1", "Toy Story (1995)", 3, 4, 5), movie_100k("2", "Misérables, Les (1995)", 8),
              movie_100k("267", "unknown", 0)]
    write(tmp_path, {"u.data": "196\t1\t3\t881250949\n186\t267\t1\t891717742\n", "u.user": "1|24|M\n",
                     "u.item": "\n".join(movies).encode("latin-1") + b"\n"})
    raw = read(tmp_path, "movielens")
    assert raw.interactions.rows() == [("196", "1", 881250949, 3.0), ("186", "267", 891717742, 1.0)]
    assert raw.items.rows() == [("1", "Toy Story", "1995", ["Animation", "Children's", "Comedy"]),
                                ("2", "Misérables, Les", "1995", ["Drama"]), ("267", "unknown", None, None)]


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_movielens_1m(tmp_path, ending, encoding):
    movies = "1::Toy Story (1995)::Animation|Comedy\n2::2001: A Café (Odyssey) (1968)::Drama\n"
    write(tmp_path, {f"ratings.dat{ending}": "1::2::5::978300760\n", f"movies.dat{ending}": movies.encode(encoding)})
    raw = read(tmp_path, "movielens")
    assert raw.interactions.rows() == [("1", "2", 978300760, 5.0)]
    assert raw.items.columns == ["item_id", "title", "year", "genres"]
    assert raw.items.row(1) == ("2", "2001: A Café (Odyssey)", "1968", ["Drama"])


NEWS = "".join(f"N{number}\tnews\tworld\tTitle \"{number}\"\tAbstract\thttp://x\t[]\t[]\n" for number in range(1, 8))


def test_mind_takes_a_history_once_and_then_the_clicks(tmp_path):
    write(tmp_path, {"news.tsv": NEWS, "behaviors.tsv":
                     "1\tU1\t11/15/2019 12:05:58 PM\tN1 N2\tN4-1 N5-0 N6-1\n"
                     "2\tU2\t11/11/2019 9:05:58 AM\t\tN1-0 N2-1\n"
                     "3\tU1\t11/14/2019 12:00:10 AM\tN1 N2\tN3-1 N4-0\n"})
    raw = read(tmp_path, "mind")
    first, second = 1573689610, 1573819558  # U1's impressions of the 14th (row 3) and the 15th (row 1)
    of_u1 = [row[1:3] for row in raw.interactions.rows() if row[0] == "U1"]
    assert sorted(of_u1, key=lambda row: row[1]) == [("N1", first - 2), ("N2", first - 1), ("N3", first),
                                                     ("N4", second), ("N6", second)]
    assert [row for row in raw.interactions.rows() if row[0] == "U2"] == [("U2", "N2", 1573463158, None)]
    assert raw.items.row(0, named=True) == {"item_id": "N1", "category": "news", "subcategory": "world",
                                            "title": 'Title "1"', "abstract": "Abstract"}


HETREC = {
    "user_taggedartists-timestamps.dat": "userID\tartistID\ttagID\ttimestamp\r\n"
                                         "2\t52\t13\t3000999\r\n2\t53\t15\t1000000\r\n"
                                         "2\t52\t15\t2000000\r\n4\t52\t15\t2500000\r\n",
    "user_artists.dat": "userID\tartistID\tweight\n2\t52\t13883\n2\t99\t1\n",
    "artists.dat": "id\tname\turl\tpictureURL\n"
                   "52\tMorcheeba\thttp://a\thttp://b\n53\tBj\u00f6rk\thttp://a\t\n99\tAir\tx\ty\n",
    "tags.dat": "tagID\ttagValue\n13\tchillout\n15\tcaf\u00e9\n".encode("latin-1"),
}


def test_hetrec_takes_the_first_tagging_of_each_pair_by_time(tmp_path):
    write(tmp_path, HETREC)
    raw = read(tmp_path, "hetrec")
    assert raw.interactions.rows() == [("2", "53", 1000, None), ("2", "52", 2000, None), ("4", "52", 2500, None)]
    assert raw.items.rows() == [("52", "Morcheeba", ["café", "chillout"]), ("53", "Björk", ["café"]),
                                ("99", "Air", None)]


def test_hetrec_without_an_order_takes_the_listening_counts(tmp_path):
    write(tmp_path, HETREC)
    raw = read(tmp_path, "hetrec", order="none")
    assert raw.interactions.rows() == [("2", "52", 2, 13883.0), ("2", "99", 3, 1.0)]


def test_hetrec_leaves_out_taggings_before_1970_and_keeps_later_ones_of_the_pair(tmp_path):
    rows = HETREC["user_taggedartists-timestamps.dat"] + "2\t53\t13\t-428720400000\r\n"
    write(tmp_path, HETREC | {"user_taggedartists-timestamps.dat": rows})
    raw = read(tmp_path, "hetrec", max_bad_rows=1)
    assert [row[1] for row in raw.interactions.rows()] == ["53", "52", "52"]
    assert len(raw.bad_rows) == 1
    assert "row 6: timestamp -428720400000 is negative" in raw.bad_rows[0]

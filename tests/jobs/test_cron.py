"""Cron specs: every rule, both changes of the clock, and a brute-force model of the calendar."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qg import jobs
from qg.jobs.cron import parse_spec

START = datetime(2026, 1, 1, tzinfo=timezone.utc)  # a Thursday
MINUTE = timedelta(minutes=1)


def ticks(spec: str, count: int, start: datetime = START) -> list[datetime]:
    """Return the first *count* ticks later than *start*, of a schedule that fires each one in time."""
    after, found = parse_spec(spec).after, [start]
    for _ in range(count):
        found.append(after(found[-1], found[-1]))
    return found[1:]


def utc(text: str) -> datetime:
    return datetime.fromisoformat(f"{text}+00:00")


def times(spec: str, count: int, start: str = "2026-01-01 00:00") -> list[str]:
    return [f"{tick:%m-%d %H:%M}" for tick in ticks(spec, count, utc(start))]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("* * * * *", ["01-01 00:01", "01-01 00:02", "01-01 00:03"]),
        ("? ? ? ? ?", ["01-01 00:01", "01-01 00:02", "01-01 00:03"]),
        ("5 * * * *", ["01-01 00:05", "01-01 01:05", "01-01 02:05"]),
        ("5,35 * * * *", ["01-01 00:05", "01-01 00:35", "01-01 01:05"]),
        ("35,5 * * * *", ["01-01 00:05", "01-01 00:35", "01-01 01:05"]),
        ("58-59 * * * *", ["01-01 00:58", "01-01 00:59", "01-01 01:58"]),
        ("*/25 * * * *", ["01-01 00:25", "01-01 00:50", "01-01 01:00"]),
        ("?/25 * * * *", ["01-01 00:25", "01-01 00:50", "01-01 01:00"]),
        ("5/25 * * * *", ["01-01 00:05", "01-01 00:30", "01-01 00:55"]),
        ("5-40/25 * * * *", ["01-01 00:05", "01-01 00:30", "01-01 01:05"]),
        ("5-5 * * * *", ["01-01 00:05", "01-01 01:05", "01-01 02:05"]),
        ("5-5/10 * * * *", ["01-01 00:05", "01-01 01:05", "01-01 02:05"]),
        ("*/60 * * * *", ["01-01 01:00", "01-01 02:00", "01-01 03:00"]),
        ("1-3,10/30,59 0 * * *", ["01-01 00:01", "01-01 00:02", "01-01 00:03", "01-01 00:10", "01-01 00:40"]),
        ("*,7 0 * * *", ["01-01 00:01", "01-01 00:02"]),
        ("05 007 * * *", ["01-01 07:05", "01-02 07:05"]),
        ("0 9-17/4 * * *", ["01-01 09:00", "01-01 13:00", "01-01 17:00", "01-02 09:00"]),
        ("0 0 31 * *", ["01-31 00:00", "03-31 00:00", "05-31 00:00"]),
        ("0 0 1 feb,OCT *", ["02-01 00:00", "10-01 00:00", "02-01 00:00"]),
        ("0 0 1 Nov-dec *", ["11-01 00:00", "12-01 00:00", "11-01 00:00"]),
        ("0 0 1 1-APR/2 *", ["03-01 00:00", "01-01 00:00"]),
        ("0 0 1 oct/1 *", ["10-01 00:00", "11-01 00:00", "12-01 00:00", "10-01 00:00"]),
    ],
)
def test_the_fields_mean_what_they_say(spec: str, expected: list[str]) -> None:
    assert times(spec, len(expected)) == expected


ALL_DAYS = "Mon Tue Wed Thu Fri Sat Sun"


@pytest.mark.parametrize(
    ("field", "days"),
    [
        ("*", ALL_DAYS),
        ("?", ALL_DAYS),
        ("0", "Sun"),
        ("7", "Sun"),
        ("sun", "Sun"),
        ("0,7", "Sun"),
        ("1", "Mon"),
        ("SAT", "Sat"),
        ("mon-FRI", "Mon Tue Wed Thu Fri"),
        ("1-5", "Mon Tue Wed Thu Fri"),
        ("5-7", "Fri Sat Sun"),
        ("fri-7", "Fri Sat Sun"),
        ("0-7", ALL_DAYS),
        ("0-1", "Mon Sun"),
        ("*/2", "Tue Thu Sat Sun"),
        ("*/3", "Wed Sat Sun"),
        ("0/2", "Tue Thu Sat Sun"),
        ("7/2", "Tue Thu Sat Sun"),
        ("SUN/2", "Tue Thu Sat Sun"),
        ("1/2", "Mon Wed Fri"),
        ("mon/3", "Mon Thu"),
        ("1-7/2", "Mon Wed Fri Sun"),
        ("6/1", "Sat"),
        ("sat/2", "Sat"),
        ("5/1", "Fri Sat"),
        ("6-6/1", "Sat"),
        ("7-7/1", "Sun"),
        ("2,4-5,sun", "Tue Thu Fri Sun"),
    ],
)
def test_the_days_of_the_week_are_those_named(field: str, days: str) -> None:
    week = {f"{tick:%a}" for tick in ticks(f"0 12 * * {field}", 7)}
    assert week == set(days.split())


@pytest.mark.parametrize(
    ("days", "expected"),
    [
        ("13 * fri", "02 09 13 16 23 30"),  # both restricted: either is enough
        ("13 * *", "13"),
        ("13 * ?", "13"),
        ("* * fri", "02 09 16 23 30"),
        ("? * fri", "02 09 16 23 30"),
        ("*/10 * fri", "01 02 09 11 16 21 23 30 31"),  # */10 restricts
        ("13 * */3", "03 04 07 10 11 13 14 17 18 21 24 25 28 31"),
        ("*/10 * *", "01 11 21 31"),
        ("* * */6", "03 04 10 11 17 18 24 25 31"),
        ("1-31 * fri", " ".join(f"{day:02}" for day in range(1, 32))),
        ("*/1 * fri", "02 09 16 23 30"),  # every one of them is no restriction
        ("13,* * fri", "02 09 16 23 30"),
        ("*,13 * fri", "02 09 16 23 30"),
        ("13 * fri,*", "13"),
    ],
)
def test_where_day_of_month_and_day_of_week_are_both_restricted_one_is_enough(days: str, expected: str) -> None:
    found = ticks(f"0 12 {days}", 40)
    assert " ".join(f"{tick:%d}" for tick in found if (tick.year, tick.month) == (2026, 1)) == expected


@pytest.mark.parametrize(
    ("word", "fields"),
    [
        ("@yearly", "0 0 1 1 *"),
        ("@annually", "0 0 1 1 *"),
        ("@monthly", "0 0 1 * *"),
        ("@weekly", "0 0 * * 0"),
        ("@daily", "0 0 * * *"),
        ("@midnight", "0 0 * * *"),
        ("@hourly", "0 * * * *"),
    ],
)
def test_the_words_stand_for_their_fields(word: str, fields: str) -> None:
    assert ticks(word, 5) == ticks(fields, 5)
    assert ticks(f"CRON_TZ=Asia/Tokyo {word}", 5) == ticks(f"CRON_TZ=Asia/Tokyo {fields}", 5)
    assert word == "@hourly" or ticks(f"CRON_TZ=Asia/Tokyo {word}", 5) != ticks(word, 5)


def test_the_words_begin_where_their_names_say() -> None:
    start = utc("2026-05-06 07:08")  # a Wednesday
    found = {
        word: f"{ticks(word, 1, start)[0]:%Y-%m-%d %H:%M}" for word in ("@yearly", "@monthly", "@weekly", "@daily")
    }
    assert found == {
        "@yearly": "2027-01-01 00:00",
        "@monthly": "2026-06-01 00:00",
        "@weekly": "2026-05-10 00:00",
        "@daily": "2026-05-07 00:00",
    }


@pytest.mark.parametrize(
    ("duration", "seconds"),
    [
        ("1s", 1),
        ("90s", 90),
        ("1.5s", 1.5),
        ("1h30m", 5400),
        ("1h", 3600),
        ("2m", 120),
        ("1000ms", 1),
        ("1500000us", 1.5),
        ("1500000µs", 1.5),
        ("2000000000ns", 2),
        (".5m", 30),
        ("1.h", 3600),
        ("1h1m1s1ms", 3661.001),
        ("1m1h", 3660),
        ("876000h", 100 * 365 * 86400),
    ],
)
def test_every_takes_a_duration_of_go(duration: str, seconds: float) -> None:
    for spec in (f"@every {duration}", f"CRON_TZ=Asia/Tokyo @every {duration}"):
        assert ticks(spec, 3) == [START + number * timedelta(seconds=seconds) for number in (1, 2, 3)]


@pytest.mark.parametrize(
    "duration",
    [
        "0.9s", "999ms", "999999999ns", "0", "0s", "-1h", "+1h", "1", "1.5", "h", "s", ".s", "1 s", "1d", "1H", "90S",
        "1h30", "30m1", "1h,30m", "1h-30m", "1e3s", "0x10s", "1_000s", "infs", "nans", "1..5s", "1.5.5s",
        "877000h1000h2000h", "9999999999h", "9" * 400 + "h", "٣s", "３s", "1h\N{ZERO WIDTH SPACE}",
    ],
)  # fmt: skip
def test_every_refuses_what_is_no_duration_or_less_than_a_second_or_beyond_a_century(duration: str) -> None:
    with pytest.raises(jobs.ErrScheduleFailed, match=r"duration like 1h30m|out of range; give 1 s or more|five"):
        parse_spec(f"@every {duration}")


def test_every_keeps_its_grid_and_what_was_missed_comes_to_one_tick() -> None:
    after = parse_spec("@every 2h").after
    last = utc("2026-01-01 00:30")
    assert after(last, last) == utc("2026-01-01 02:30")
    assert after(last, last + MINUTE) == utc("2026-01-01 02:30")
    assert after(last, utc("2026-01-01 02:29")) == utc("2026-01-01 02:30")
    assert after(last, utc("2026-01-01 02:30")) == utc("2026-01-01 04:30")
    assert after(last, utc("2026-01-03 07:00")) == utc("2026-01-03 08:30")


def test_ticks_of_a_calendar_that_were_missed_come_to_one() -> None:
    after = parse_spec("30 * * * *").after
    assert after(utc("2026-01-01 00:30"), utc("2026-01-01 05:29")) == utc("2026-01-01 05:30")
    assert after(utc("2026-01-01 00:30"), utc("2026-01-01 05:30")) == utc("2026-01-01 06:30")


@pytest.mark.parametrize("spec", ["@every 2h", "30 */2 * * *"])
def test_a_clock_that_was_put_back_repeats_no_tick(spec: str) -> None:
    tick = utc("2026-01-01 04:30")
    assert parse_spec(spec).after(tick, tick - timedelta(hours=3)) == utc("2026-01-01 06:30")


def test_a_part_of_a_minute_isnt_the_minute() -> None:
    after = parse_spec("* * * * *").after
    late = utc("2026-01-01 00:00") + timedelta(seconds=59.999999)
    assert after(late, late) == utc("2026-01-01 00:01")
    soon = utc("2026-01-01 00:00") + timedelta(microseconds=1)
    assert after(soon, soon) == utc("2026-01-01 00:01")


def test_a_tick_is_utc_whatever_zone_the_arguments_have() -> None:
    east = START.astimezone(timezone(timedelta(hours=9)))
    for spec in ("0 12 * * *", "CRON_TZ=Europe/Berlin 0 13 * * *"):
        tick = parse_spec(spec).after(east, east)
        assert tick == utc("2026-01-01 12:00")
        assert tick.utcoffset() == timedelta()


def test_the_spec_is_kept_with_single_spaces() -> None:
    assert parse_spec("  0\t12  * *\n MON ").spec == "0 12 * * MON"
    assert parse_spec(" CRON_TZ=UTC   @daily").spec == "CRON_TZ=UTC @daily"


BERLIN = "CRON_TZ=Europe/Berlin"
BEFORE_SPRING = "2026-03-28 00:00"  # on the 29th 02:00 becomes 03:00, at 01:00 UTC
BEFORE_AUTUMN = "2026-10-24 00:00"  # on the 25th 03:00 becomes 02:00, at 01:00 UTC


def test_a_zone_moves_the_ticks() -> None:
    assert times("CRON_TZ=America/New_York 0 9 * * *", 1) == ["01-01 14:00"]
    assert times("CRON_TZ=Asia/Kolkata 0 9 * * *", 1) == ["01-01 03:30"]
    assert times("CRON_TZ=UTC 0 9 * * *", 1) == times("0 9 * * *", 1) == ["01-01 09:00"]


def test_an_hour_that_is_left_out_in_spring_fires_right_after_the_gap() -> None:
    assert times(f"{BERLIN} 30 2 * * *", 3, BEFORE_SPRING) == ["03-28 01:30", "03-29 01:00", "03-30 00:30"]
    assert times(f"{BERLIN} 0,30 2 * * *", 4, "2026-03-28 02:00") == [
        "03-29 01:00",
        "03-30 00:00",
        "03-30 00:30",
        "03-31 00:00",
    ]


def test_an_hour_that_comes_twice_in_autumn_fires_once() -> None:
    assert times(f"{BERLIN} 30 2 * * *", 3, BEFORE_AUTUMN) == ["10-24 00:30", "10-25 00:30", "10-26 01:30"]


def test_the_same_local_time_stays_through_both_changes() -> None:
    assert times(f"{BERLIN} 0 9 * * *", 3, BEFORE_SPRING) == ["03-28 08:00", "03-29 07:00", "03-30 07:00"]
    assert times(f"{BERLIN} 0 9 * * *", 3, BEFORE_AUTUMN) == ["10-24 07:00", "10-25 08:00", "10-26 08:00"]


@pytest.mark.parametrize("fields", ["*/30 * * * *", "0,30 * * * *", "0/30 ? * * *", "*/30 */1 * * *"])
@pytest.mark.parametrize("start", [BEFORE_SPRING, BEFORE_AUTUMN])
def test_what_fires_every_half_hour_does_so_through_both_changes(fields: str, start: str) -> None:
    found = ticks(f"{BERLIN} {fields}", 100, utc(start))
    assert found == [utc(start) + number * 30 * MINUTE for number in range(1, 101)]


@pytest.mark.parametrize("minutes", range(0, 121, 15))
def test_after_an_outage_in_the_hour_that_comes_twice_the_next_tick_is_in_the_future(minutes: int) -> None:
    after = parse_spec(f"{BERLIN} 30 2 * * *").after
    now = utc("2026-10-25 00:00") + minutes * MINUTE
    tick = after(utc("2026-10-24 00:30"), now)
    assert tick == (utc("2026-10-25 00:30") if now < utc("2026-10-25 00:30") else utc("2026-10-26 01:30"))


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/Havana", "Africa/Cairo", "Australia/Lord_Howe"])
@given(data=st.data())
def test_the_next_tick_is_later_than_the_present_in_zones_that_change_the_clock(zone: str, data: st.DataObject) -> None:
    fields = data.draw(specs)
    now = data.draw(st.datetimes(datetime(2025, 1, 1), datetime(2026, 12, 31), timezones=st.just(timezone.utc)))
    # Half of them in the night of a change.
    change = data.draw(
        st.sampled_from(["2026-03-29 01:00", "2026-10-25 01:00", "2026-11-01 05:00", "2026-04-04 15:00"])
    )
    near = utc(change) + timedelta(seconds=data.draw(st.integers(-7200, 7200)))
    spec = f"CRON_TZ={zone} {fields.text}"
    if fields.possible:
        after = parse_spec(spec).after
        for each in (now, near):
            tick = after(each, each)
            assert tick > each
            assert after(tick, tick) > tick


HOSTILE_ZONES = [
    "", "Mars/Phobos", "Europe", "Europe/", "Europe/Berlin/", "Europe//Berlin", "Europe/Berlin\0", "\0", "\ud800",
    "../../etc/passwd", "/etc/passwd", "/usr/share/zoneinfo/UTC", "..", ".", "~", "%s", "{0}", "=UTC", "UTC=",
    "zone.tab", "tzdata.zi", "leapseconds", "__init__.py", "__pycache__", "Europe/__init__.py", "a.b/c", "a" * 5000,
    "a/" * 2000, "C:\\windows", "é", "Ｕ" + "TC", "-1", "+01:00", "Europe/Berlin;Asia/Tokyo",
]  # fmt: skip


@pytest.mark.parametrize("zone", HOSTILE_ZONES, ids=lambda zone: ascii(zone[:25]))
def test_a_zone_that_isnt_known_is_refused(zone: str) -> None:
    with pytest.raises(jobs.ErrScheduleFailed, match="time zone .* that isn't known"):
        parse_spec(f"CRON_TZ={zone} 0 0 * * *")


@pytest.mark.parametrize(
    "spec",
    [
        "", " ", "*", "* * * *", "* * * * * *", "CRON_TZ=UTC", "CRON_TZ=UTC *", "TZ=UTC * * * * *",
        "cron_tz=UTC @daily",
        "@every", "@every 1h 30m", "@every1h", "@everyday 1h", "@EVERY 1h", "@reboot", "@Daily", "@", "@daily @daily",
        "@daily *", "@daily CRON_TZ=UTC", "every 1h", "1h", "\0 * * * *", "* * * * *\0",
    ],
    ids=ascii,
)  # fmt: skip
def test_what_is_no_spec_is_refused(spec: str) -> None:
    with pytest.raises(jobs.ErrScheduleFailed, match="the spec "):
        parse_spec(spec)


@pytest.mark.parametrize(
    "term",
    [
        "60", "-1", "5-", "-5", "5--6", "6-5", "5-60", "1,,2", ",", "1,", ",1", "/", "/5", "*/", "*/0", "*/-1", "5/0",
        "1-5/0", "*-5", "*5", "**", "5*", "??", "1.5", "0x1", "1_0", "a", "JAN", "MON", "L", "W", "5L", "#", "1#1",
        "~", "H", "%", "٣", "५", "*/٣", "9" * 20, "9" * 5000, "*/" + "9" * 5000,
    ],
    ids=lambda term: ascii(term[:20]),
)  # fmt: skip
def test_a_minute_that_cant_be_is_refused(term: str) -> None:
    with pytest.raises(jobs.ErrScheduleFailed, match="the spec .*minute|the spec .* can't be"):
        parse_spec(f"{term} * * * *")


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ("* 24 * * *", "hour"),
        ("* 5-24 * * *", "hour"),
        ("* * 0 * *", "day-of-month"),
        ("* * 32 * *", "day-of-month"),
        ("* * mon * *", "day-of-month"),
        ("* * L * *", "day-of-month"),
        ("* * LW * *", "day-of-month"),
        ("* * 15W * *", "day-of-month"),
        ("* * * 0 *", "month"),
        ("* * * 13 *", "month"),
        ("* * * mon *", "month"),
        ("* * * january *", "month"),
        ("* * * nov-feb *", "month"),
        ("* * * * 8", "day-of-week"),
        ("* * * * -1", "day-of-week"),
        ("* * * * jan", "day-of-week"),
        ("* * * * monday", "day-of-week"),
        ("* * * * fri-mon", "day-of-week"),
        ("* * * * 1#2", "day-of-week"),
        ("* * * * 5L", "day-of-week"),
    ],
)
def test_a_value_out_of_its_fields_range_is_refused_and_the_field_named(spec: str, field: str) -> None:
    with pytest.raises(jobs.ErrScheduleFailed, match=field):
        parse_spec(spec)


@pytest.mark.parametrize("days", ["30 2 *", "31 2 *", "31 2,4,6,9,11 *", "30-31 feb ?", "31 4 *", "30/1 2 *"])
def test_a_date_that_never_comes_is_refused(days: str) -> None:
    for spec in (f"0 0 {days}", f"CRON_TZ=Europe/Berlin 0 0 {days}"):
        with pytest.raises(jobs.ErrScheduleFailed, match="can't be|never comes"):
            parse_spec(spec)


def test_a_date_that_comes_seldom_is_waited_for() -> None:
    assert [tick.year for tick in ticks("0 0 29 2 *", 3, datetime(2096, 1, 1, tzinfo=timezone.utc))] == [
        2096,
        2104,
        2108,
    ]
    assert times("0 0 31 2 mon", 2) == ["02-02 00:00", "02-09 00:00"]


@pytest.mark.parametrize("spec", [None, 5, b"@daily", ["@daily"], timedelta(hours=1)])
def test_a_spec_must_be_a_string(spec: object) -> None:
    with pytest.raises(jobs.ErrScheduleFailed, match="must be a string"):
        parse_spec(spec)  # type: ignore[arg-type]


# The model: each field is the set of the numbers it allows, and every minute is looked at.


class Field(NamedTuple):
    text: str
    numbers: frozenset[int]
    restricted: bool


class Spec(NamedTuple):
    text: str
    minutes: frozenset[int]
    hours: frozenset[int]
    days: Field
    months: frozenset[int]
    weekdays: Field

    def on(self, day: datetime) -> bool:
        of_month, of_week = day.day in self.days.numbers, day.isoweekday() % 7 in self.weekdays.numbers
        either = self.days.restricted and self.weekdays.restricted
        return day.month in self.months and ((of_month or of_week) if either else (of_month and of_week))

    @property
    def possible(self) -> bool:
        return any(self.on(START + timedelta(days=number)) for number in range(4 * 366))

    def after(self, moment: datetime) -> datetime:
        minute = moment.replace(second=0, microsecond=0) + MINUTE
        while not (self.on(minute) and minute.hour in self.hours and minute.minute in self.minutes):
            if self.on(minute):
                minute += MINUTE
            else:
                minute = minute.replace(hour=0, minute=0) + timedelta(days=1)
        return minute


@st.composite
def fields(draw: st.DrawFn, low: int, high: int, names: str = "") -> Field:
    texts, numbers, stars = [], set(), False
    written = {number: [str(number)] for number in range(low, high + 1)}
    for number, name in enumerate(names.split()):
        written[low + number] += [name, name.lower()]
    if low == 0 and high == 6:
        written[7] = ["7"]

    def number(at_least: int = low) -> int:
        return draw(st.integers(at_least, max(written)))

    def text(number: int) -> str:
        return draw(st.sampled_from(written[number]))

    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        step = draw(st.integers(1, 70))
        form = draw(st.sampled_from(["*", "*/", "a", "a-b", "a-b/", "a/"]))
        star = draw(st.sampled_from("*?"))
        first = number()
        last = number(first)
        if form == "*":
            texts.append(star)
            found = range(low, high + 1)
        elif form == "*/":
            texts.append(f"{star}/{step}")
            found = range(low, high + 1, step)
        elif form == "a":
            texts.append(text(first))
            found = range(first, first + 1)
        elif form == "a/":
            texts.append(f"{text(first)}/{step}")
            found = range(first if first <= high else low, high + 1, step)
        else:
            texts.append(f"{text(first)}-{text(last)}" + (f"/{step}" if form == "a-b/" else ""))
            found = range(first, last + 1, step if form == "a-b/" else 1)
        numbers |= {each % 7 if high == 6 else each for each in found}
        stars = stars or form == "*" or (form == "*/" and step == 1)
    return Field(",".join(texts), frozenset(numbers), not stars)


@st.composite
def _specs(draw: st.DrawFn) -> Spec:
    found = [
        draw(fields(0, 59)),
        draw(fields(0, 23)),
        draw(fields(1, 31)),
        draw(fields(1, 12, "JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC")),
        draw(fields(0, 6, "SUN MON TUE WED THU FRI SAT")),
    ]
    text = " ".join(each.text for each in found)
    return Spec(text, found[0].numbers, found[1].numbers, found[2], found[3].numbers, found[4])


specs = _specs()


@given(spec=specs, start=st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1), timezones=st.just(timezone.utc)))
def test_the_ticks_are_those_that_looking_at_every_minute_finds(spec: Spec, start: datetime) -> None:
    if not spec.possible:
        with pytest.raises(jobs.ErrScheduleFailed, match="can't be|never comes"):
            parse_spec(spec.text)
        return
    after, moment = parse_spec(spec.text).after, start
    for _ in range(3):
        expected = spec.after(moment)
        assert after(moment, moment) == after(start, moment) == after(moment, start) == expected
        moment = expected


@given(
    seconds=st.floats(1, 10**6).map(lambda seconds: round(seconds, 3)),
    tick=st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1), timezones=st.just(timezone.utc)),
    late=st.timedeltas(timedelta(days=-1000), timedelta(days=1000)),
)
def test_every_ticks_on_its_grid_and_at_most_one_interval_ahead(
    seconds: float, tick: datetime, late: timedelta
) -> None:
    interval = timedelta(seconds=seconds)
    found = parse_spec(f"@every {seconds}s").after(tick, tick + late)
    assert (found - tick) % interval == timedelta()
    assert tick < found
    assert timedelta() < found - max(tick, tick + late) <= interval

"""JobFuncs: what can work jobs, which type it is for, and what is refused and why."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Optional, Union

import pydantic
import pytest
from support import eventually

from qg import QgError, jobs
from qg.jobs.functions import Functions

if TYPE_CHECKING:
    from decimal import Decimal as OnlyForMypy


@dataclass(frozen=True)
class Greet:
    user_id: int


@dataclass(frozen=True)
class Other:
    pass


class Named(NamedTuple):
    user_id: int


class Model(pydantic.BaseModel):
    user_id: int


@dataclass(frozen=True)
class SaysGreet:
    """Another class, whose job type is that of Greet."""

    @staticmethod
    def job_type() -> str:
        return f"{__name__}.Greet"


@dataclass(frozen=True)
class NotResolvable:
    value: OnlyForMypy


Calls = list[tuple[Any, Any]]
CALLS: Calls = []


def plain(ctx: jobs.Context, job: Greet) -> None:
    CALLS.append((ctx, job))


async def coroutine(ctx: jobs.Context, job: Greet) -> str:
    CALLS.append((ctx, job))
    return "done"


def with_defaults(ctx: jobs.Context, job: Greet, more: int = 3, *rest: int, key: str = "", **options: Any) -> None:
    CALLS.append((ctx, job))


def without_other_annotations(ctx, job: Greet):  # type: ignore[no-untyped-def]
    CALLS.append((ctx, job))


def positional_only(ctx: jobs.Context, job: Greet, /) -> None:
    CALLS.append((ctx, job))


def returning(ctx: jobs.Context, job: Greet) -> bool:
    CALLS.append((ctx, job))
    return False


def in_quotes(ctx: "jobs.Context", job: "Greet") -> None:  # noqa: UP037
    CALLS.append((ctx, job))


def annotated(ctx: jobs.Context, job: Annotated[Greet, "for the reader"]) -> None:
    CALLS.append((ctx, job))


def with_the_class_itself(ctx: jobs.Context, job: Greet) -> None:
    CALLS.append((ctx, job))


with_the_class_itself.__annotations__["job"] = Greet


def with_a_dependency(mailer: str, ctx: jobs.Context, job: Greet, *, urgent: bool) -> None:
    assert (mailer, urgent) == ("mailer", True)
    CALLS.append((ctx, job))


def logged(fn: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(fn)
    def wrapper(*args: Any, **options: Any) -> Any:
        return fn(*args, **options)

    return wrapper


# As of a module that knows nothing of the payloads here.
ELSEWHERE: dict[str, Any] = {}
exec(
    f"import functools\nfrom typing import *\nfrom collections.abc import Callable\n{inspect.getsource(logged)}",
    ELSEWHERE,
)


class Handler:
    def __init__(self, func: object = None) -> None:
        if func is not None:
            self.func = func

    def __call__(self, ctx: jobs.Context, job: Greet) -> None:
        CALLS.append((ctx, job))

    def method(self, ctx: jobs.Context, job: Greet) -> None:
        CALLS.append((ctx, job))

    async def async_method(self, ctx: jobs.Context, job: Greet) -> None:
        CALLS.append((ctx, job))

    @classmethod
    def class_method(cls, ctx: jobs.Context, job: Greet) -> None:
        CALLS.append((ctx, job))

    @staticmethod
    def static_method(ctx: jobs.Context, job: Greet) -> None:
        CALLS.append((ctx, job))


class AsyncHandler:
    async def __call__(self, ctx: jobs.Context, job: Greet) -> None:
        CALLS.append((ctx, job))


GOOD: dict[str, Any] = {
    "function": plain,
    "coroutine": coroutine,
    "more parameters with defaults": with_defaults,
    "no other annotations": without_other_annotations,
    "positional only": positional_only,
    "a result": returning,
    "annotation in quotes": in_quotes,
    "Annotated": annotated,
    "annotation that is the class": with_the_class_itself,
    "method": Handler().method,
    "async method": Handler().async_method,
    "class method": Handler.class_method,
    "static method": Handler.static_method,
    "object": Handler(),
    "async object": AsyncHandler(),
    "object with an attribute func": Handler(print),
    "object with an attribute func that is no function": Handler("text"),
    "partial": functools.partial(with_a_dependency, "mailer", urgent=True),
    "partial of a partial": functools.partial(functools.partial(with_a_dependency, "mailer"), urgent=True),
    "partial of a coroutine": functools.partial(coroutine),
    "partial of a method": functools.partial(Handler().method),
    "partial of an object": functools.partial(Handler()),
    "decorated": logged(plain),
    "decorated twice": logged(logged(plain)),
    "decorated by another module": ELSEWHERE["logged"](plain),
    "partial of one decorated by another module": functools.partial(ELSEWHERE["logged"](plain)),
    "decorated coroutine": logged(coroutine),
    "partial of a decorated one": functools.partial(logged(with_a_dependency), "mailer", urgent=True),
}


@pytest.fixture
def calls() -> Iterator[Calls]:
    CALLS.clear()
    yield CALLS
    CALLS.clear()


@pytest.mark.parametrize("fn", GOOD.values(), ids=GOOD)
def test_whatever_can_be_called_with_a_context_and_a_payload_works_jobs(fn: Any, calls: Calls) -> None:
    with jobs.MemoryQueue(pool_size=1) as queue:
        assert queue.register_job_func(fn) is fn
        queue.start()
        queue.enqueue(Greet(7))
        eventually(lambda: calls)
    ((ctx, job),) = calls
    assert isinstance(ctx, jobs.Context)
    assert job == Greet(7)


@pytest.mark.parametrize("make", [jobs.MemoryQueue, jobs.TestQueue, jobs.NoopQueue])
def test_registering_decorates(make: Callable[[], Any]) -> None:
    with make() as queue:

        @queue.register_job_func
        def greet(ctx: jobs.Context, job: Greet) -> str:
            return f"hello {job.user_id}"

        assert inspect.isfunction(greet)
        assert greet(None, Greet(7)) == "hello 7"


@pytest.mark.parametrize("cls", [Greet, Named, Model, Other])
def test_the_job_type_comes_from_the_annotation(cls: Any) -> None:
    def fn(ctx: Any, job: Any) -> None:
        pass

    fn.__annotations__["job"] = cls
    functions = Functions()
    functions.add(fn)
    assert functions.job_types == [f"{__name__}.{cls.__qualname__}"]
    assert functions.get(f"{__name__}.{cls.__qualname__}").call is fn  # type: ignore[union-attr]
    assert functions.get("other") is None
    assert f"{__name__}.{cls.__qualname__}" in functions
    assert "other" not in functions


def no_parameters() -> None:
    pass


def one_parameter(ctx: jobs.Context) -> None:
    pass


def three_parameters(ctx: jobs.Context, job: Greet, more: int) -> None:
    pass


def keyword_only(ctx: jobs.Context, *, job: Greet) -> None:
    pass


def needs_a_keyword(ctx: jobs.Context, job: Greet, *, more: int) -> None:
    pass


def only_args(*args: Any) -> None:
    pass


def only_the_rest(ctx: jobs.Context, **options: Greet) -> None:
    pass


def no_annotation(ctx: jobs.Context, job) -> None:  # type: ignore[no-untyped-def]
    pass


def takes_str(ctx: jobs.Context, job: str) -> None:
    pass


def takes_int(ctx: jobs.Context, job: int) -> None:
    pass


def takes_dict(ctx: jobs.Context, job: dict) -> None:  # type: ignore[type-arg]
    pass


def takes_dict_of(ctx: jobs.Context, job: dict[str, int]) -> None:
    pass


def takes_list(ctx: jobs.Context, job: list[Greet]) -> None:
    pass


def takes_none(ctx: jobs.Context, job: None) -> None:
    pass


def takes_any(ctx: jobs.Context, job: Any) -> None:
    pass


def takes_object(ctx: jobs.Context, job: object) -> None:
    pass


def takes_context_last(job: Greet, ctx: jobs.Context) -> None:
    pass


def takes_class(ctx: jobs.Context, job: type[Greet]) -> None:
    pass


def takes_optional(ctx: jobs.Context, job: Optional[Greet]) -> None:  # noqa: UP045
    pass


def takes_union(ctx: jobs.Context, job: Union[Greet, Other]) -> None:  # noqa: UP007
    pass


def takes_either(ctx: jobs.Context, job: Greet | Other) -> None:
    pass


def takes_unknown(ctx: jobs.Context, job: NoSuchClass) -> None:  # type: ignore[name-defined]  # noqa: F821
    pass


def takes_unknown_attribute(ctx: jobs.Context, job: jobs.NoSuchClass) -> None:  # type: ignore[name-defined]
    pass


def takes_what_is_only_for_mypy(ctx: jobs.Context, job: OnlyForMypy) -> None:
    pass


def takes_what_doesnt_parse(ctx: jobs.Context, job: Greet) -> None:
    pass


takes_what_doesnt_parse.__annotations__["job"] = "Greet["


def takes_five(ctx: jobs.Context, job: 5) -> None:  # type: ignore[valid-type]
    pass


def takes_a_list_literal(ctx: jobs.Context, job: []) -> None:  # type: ignore[valid-type]
    pass


def takes_fields_that_cant_be_resolved(ctx: jobs.Context, job: NotResolvable) -> None:
    pass


def generator(ctx: jobs.Context, job: Greet) -> Iterator[None]:
    yield


async def async_generator(ctx: jobs.Context, job: Greet) -> Any:
    yield


class GeneratorHandler:
    def __call__(self, ctx: jobs.Context, job: Greet) -> Iterator[None]:
        yield

    def method(self, ctx: jobs.Context, job: Greet) -> Iterator[None]:
        yield


TWO = r"must take two arguments, \(context, payload\)"
NO_PAYLOAD = "its second parameter, job, is no payload: {} is no payload type"
BAD: list[tuple[Any, str]] = [
    (None, r"must be a function that takes \(context, payload\), not None"),
    (7, "must be a function .*, not 7"),
    ("greet", "must be a function .*, not 'greet'"),
    (Greet, "must be a function .*, not <class"),
    (Greet(7), r"must be a function .*, not Greet\(user_id=7\)"),
    (Handler, "must be a function .*, not <class"),
    (no_parameters, f"no_parameters {TWO}"),
    (one_parameter, f"one_parameter {TWO}"),
    (three_parameters, f"three_parameters {TWO}.*'more'"),
    (keyword_only, f"keyword_only {TWO}"),
    (needs_a_keyword, f"needs_a_keyword {TWO}.*'more'"),
    (only_args, f"only_args {TWO}"),
    (only_the_rest, f"only_the_rest {TWO}"),
    (Handler.method, rf"Handler\.method {TWO}"),
    (functools.partial(with_a_dependency, "mailer"), TWO),
    (len, f"len {TWO}"),
    (no_annotation, "no_annotation: its second parameter, job, has no annotation; annotate it with the payload type"),
    (lambda ctx, job: None, "<lambda>: its second parameter, job, has no annotation"),
    (print, "print: its second parameter, .*, has no annotation|takes? two"),
    (takes_str, NO_PAYLOAD.format("str")),
    (takes_int, NO_PAYLOAD.format("int")),
    (takes_dict, NO_PAYLOAD.format("dict")),
    (takes_dict_of, "takes_dict_of: its second parameter, job"),
    (takes_list, "takes_list: its second parameter, job"),
    (takes_none, NO_PAYLOAD.format("NoneType")),
    (takes_any, "takes_any: its second parameter, job"),
    (takes_object, NO_PAYLOAD.format("object")),
    (takes_context_last, "takes_context_last: its second parameter, ctx"),
    (takes_class, "takes_class: its second parameter, job"),
    (takes_optional, r"takes_optional: its second parameter, job, must be one class, not .*Greet"),
    (takes_union, "takes_union: its second parameter, job, must be one class, not .*Greet.*Other"),
    (takes_either, "takes_either: its second parameter, job, must be one class, not .*Greet.*Other"),
    (takes_unknown, "takes_unknown: the annotation 'NoSuchClass' of job can't be resolved: .*NoSuchClass"),
    (takes_unknown_attribute, r"the annotation 'jobs\.NoSuchClass' of job can't be resolved: .*NoSuchClass"),
    (takes_what_is_only_for_mypy, "the annotation 'OnlyForMypy' of job can't be resolved"),
    (takes_what_doesnt_parse, r"the annotation 'Greet\[' of job can't be resolved"),
    (takes_five, "takes_five: .*job"),
    (takes_a_list_literal, "takes_a_list_literal: .*job"),
    (
        takes_fields_that_cant_be_resolved,
        "takes_fields_that_cant_be_resolved: its second parameter, job, is no payload",
    ),
    (generator, "generator is a generator, which nobody would run"),
    (async_generator, "async_generator is a generator"),
    (functools.partial(generator), "is a generator"),
    (GeneratorHandler().method, "is a generator"),
    (GeneratorHandler(), "is a generator"),
]


@pytest.mark.parametrize(
    ("fn", "message"), BAD, ids=[getattr(bad[0], "__qualname__", None) or ascii(bad[0])[:40] for bad in BAD]
)
def test_what_cant_work_jobs_is_refused_and_told_why(fn: Any, message: str) -> None:
    functions = Functions()
    with pytest.raises(jobs.ErrInvalidJobFunc, match=message):
        functions.add(fn)
    assert functions.job_types == []


def test_a_class_defined_in_a_function_cant_be_resolved_from_a_string_nor_named_by_others() -> None:
    @dataclass
    class Local:
        pass

    def fn(ctx: jobs.Context, job: Local) -> None:
        pass

    with pytest.raises(jobs.ErrInvalidJobFunc, match="'Local' of job can't be resolved"):
        jobs.TestQueue().register_job_func(fn)
    fn.__annotations__["job"] = Local
    with pytest.raises(jobs.ErrInvalidJobFunc, match="is no payload: .*defined inside a function"):
        jobs.TestQueue().register_job_func(fn)


def test_the_same_type_twice_is_refused_and_the_first_function_named() -> None:
    functions = Functions()
    functions.add(plain)
    for again in (coroutine, plain):
        with pytest.raises(
            jobs.ErrInvalidJobFunc,
            match=f"job type 'test_functions.Greet' has a function already, plain; {again.__name__} needs a payload",
        ):
            functions.add(again)
    assert functions.get("test_functions.Greet").call is plain  # type: ignore[union-attr]


def test_two_classes_of_one_job_type_are_the_same_type() -> None:
    def fn(ctx: jobs.Context, job: SaysGreet) -> None:
        pass

    queue = jobs.TestQueue()
    queue.register_job_func(plain)
    with pytest.raises(jobs.ErrInvalidJobFunc, match=r"'test_functions\.Greet' has a function already, plain"):
        queue.register_job_func(fn)


def test_each_queue_has_functions_of_its_own() -> None:
    seen: list[tuple[str, Greet]] = []

    def greet_one(ctx: jobs.Context, job: Greet) -> None:
        seen.append(("one", job))

    async def greet_other(ctx: jobs.Context, job: Greet) -> None:
        seen.append(("other", job))

    with jobs.MemoryQueue() as one, jobs.MemoryQueue() as other:
        for queue, fn in ((one, greet_one), (other, greet_other)):
            queue.register_job_func(fn)
            queue.start()
        one.enqueue(Greet(1))
        other.enqueue(Greet(2))
        eventually(lambda: len(seen) == 2)
    assert sorted(seen, key=lambda each: each[0]) == [("one", Greet(1)), ("other", Greet(2))]


def test_a_refusal_is_an_error_of_registering() -> None:
    assert issubclass(jobs.ErrInvalidJobFunc, jobs.ErrRegisterJobFuncFailed)
    assert issubclass(jobs.ErrRegisterJobFuncFailed, QgError)
    assert issubclass(jobs.ErrInvalidJobFunc, TypeError)


def test_a_queue_that_was_shut_down_takes_no_function() -> None:
    queue = jobs.MemoryQueue()
    queue.shutdown()
    with pytest.raises(jobs.ErrRegisterJobFuncFailed, match="was shut down"):
        queue.register_job_func(plain)


@pytest.mark.parametrize("fn", [plain, None])
def test_a_noop_queue_checks_nothing(fn: Any) -> None:
    queue = jobs.NoopQueue()
    assert queue.register_job_func(fn) is fn
    assert queue.register_job_func(fn) is fn

"""A web application for asyncio that stores a user, and the job to greet them, in one transaction, and works it."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel
from sqlalchemy import make_url, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import qg
from qg import aio


class Base(DeclarativeBase):
    """What tables.py has created."""


class User(Base):
    """Somebody who is to be greeted."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    greeted: Mapped[bool] = mapped_column(default=False)


class NewUser(BaseModel):
    """What a request has."""

    name: str


def create_app() -> FastAPI:
    """Return the application, on the database in DATABASE_URL, which must be a URL."""
    url = os.environ["DATABASE_URL"]
    engine = create_async_engine(make_url(url).set(drivername="postgresql+asyncpg"))
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    client = aio.Client(url)

    async def greet(job: aio.Job) -> None:
        async with sessions.begin() as session:
            user = await session.get_one(User, job.args[0])
            user.greeted = True
            await job.delete_in_tx(session)  # one commit with the user

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        pool = aio.WorkerPool(client, {"GreetUser": greet}, int(os.environ.get("WORKERS", "5")), queue="greetings")
        async with client, pool:
            yield
        await engine.dispose()

    app = FastAPI(lifespan=lifespan)

    @app.post("/users", status_code=201)
    async def add_user(given: NewUser) -> dict[str, int]:
        async with sessions.begin() as session:  # commits at its end, or rolls back
            user = User(name=given.name)
            session.add(user)
            try:
                await session.flush()
            except IntegrityError:
                raise HTTPException(409, "there is a user of that name") from None
            await client.enqueue_in_tx(qg.Job("GreetUser", args=[user.id], queue="greetings"), session)
            if not user.name.strip():
                raise HTTPException(400, "a user needs a name")  # and neither the user nor the job is there
        return {"id": user.id}

    @app.get("/users")
    async def list_users() -> list[dict[str, object]]:
        async with sessions() as session:
            users = await session.scalars(select(User).order_by(User.id))
            return [{"id": user.id, "name": user.name, "greeted": user.greeted} for user in users]

    @app.get("/queues")
    async def list_queues() -> dict[str, int]:
        return {each.queue: each.count for each in await client.stats()}

    return app

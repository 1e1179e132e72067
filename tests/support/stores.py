"""The three stores, for tests that run over each of them."""

from __future__ import annotations

from podium.cluster.store.memory.disk import Disk
from podium.cluster.store.memory.journal import MemoryJournal
from podium.cluster.store.memory.reading import DiskReader
from podium.cluster.store.postgres.journal import PostgresJournal
from podium.cluster.store.postgres.reading import PostgresReader
from podium.cluster.store.sqlite.journal import SqliteJournal
from podium.cluster.store.sqlite.reading import FileReader
from tests.support import postgres


class Files:
    def __init__(self, path):
        self.path = path
        self.reader = FileReader(path)

    async def open(self, shard="w"):
        return await SqliteJournal(self.path, shard, lock_wait_s=0.1).open()


class Memory:
    def __init__(self, path):
        self.disk = Disk()
        self.reader = DiskReader(self.disk)

    async def open(self, shard="w"):
        return MemoryJournal(self.disk, shard)


class Postgres:
    def __init__(self, path):
        self.path, self.database = path, postgres.new_database(timeout_s=5)
        self.reader = PostgresReader(self.database)

    async def open(self, shard="w"):
        return await PostgresJournal(self.database, self.path, shard).open()

    def drop(self):
        postgres.drop(self.database)


STORES = [Files, Memory, Postgres]

"""Every SQL statement of the SQLite store.

The layout is one journal row per commit with the new blocks of all streams: appending to a table without an index is
the cheapest write that SQLite has. What a stream has in the journal is gathered into a segment now and then, and when
it ends; a journal row goes when all that it holds has been gathered.
"""

APPLICATION_ID = 0x756E6272  # "unbr"
SCHEMA_VERSION = 3

#: What leads from each version of the schema to the next; a new file is version 0.
MIGRATIONS = (
    (
        """
        CREATE TABLE streams (
            number INTEGER PRIMARY KEY AUTOINCREMENT,  -- the journal may speak of one that was removed
            id TEXT NOT NULL UNIQUE,
            claim TEXT UNIQUE,
            owner TEXT NOT NULL,
            epoch INTEGER NOT NULL,
            last INTEGER NOT NULL,      -- offset of the last block in a segment
            gathered INTEGER NOT NULL,  -- id of the last journal row that is in a segment, as far as this stream goes
            bytes INTEGER NOT NULL,     -- of the record and the segments
            account BLOB NOT NULL,
            watched_until REAL NOT NULL,
            ended_at REAL
        )
        """,
        "CREATE INDEX streams_live ON streams (owner) WHERE ended_at IS NULL",
        "CREATE INDEX streams_ended ON streams (ended_at) WHERE ended_at IS NOT NULL",
        # Apart from `streams`: a row that changes is written anew, and a request may be long.
        "CREATE TABLE records (stream INTEGER PRIMARY KEY, record BLOB NOT NULL)",
        """
        CREATE TABLE segments (
            id INTEGER PRIMARY KEY,
            stream INTEGER NOT NULL,
            first INTEGER NOT NULL,
            last INTEGER NOT NULL,
            blocks BLOB NOT NULL,
            notes BLOB NOT NULL
        )
        """,
        "CREATE INDEX segments_of ON segments (stream, last)",
        "CREATE TABLE journal (id INTEGER PRIMARY KEY, owner TEXT NOT NULL, body BLOB NOT NULL)",
        "CREATE TABLE owners (id TEXT PRIMARY KEY, lease_until REAL NOT NULL) WITHOUT ROWID",
        # One row: how often a stream has changed hands or been removed. Who sees it unmoved still owns what it owned.
        "CREATE TABLE fences (claims INTEGER NOT NULL)",
        "INSERT INTO fences VALUES (0)",
        """
        CREATE TABLE responses (
            id TEXT PRIMARY KEY,
            owner TEXT NOT NULL,
            body BLOB NOT NULL,
            items BLOB NOT NULL,
            bytes INTEGER NOT NULL,
            at REAL NOT NULL,
            last_used REAL NOT NULL
        )
        """,
        "CREATE INDEX responses_used ON responses (last_used)",
        "CREATE INDEX responses_at ON responses (at)",
        "CREATE TABLE responses_total (number INTEGER NOT NULL, bytes INTEGER NOT NULL)",
        "INSERT INTO responses_total VALUES (0, 0)",
        """
        CREATE TRIGGER response_kept AFTER INSERT ON responses BEGIN
            UPDATE responses_total SET number = number + 1, bytes = bytes + new.bytes;
        END
        """,
        """
        CREATE TRIGGER response_gone AFTER DELETE ON responses BEGIN
            UPDATE responses_total SET number = number - 1, bytes = bytes - old.bytes;
        END
        """,
    ),
    (),  # among blocks there may be runs of them (pieces.py), which version 1 could not read
    (),  # in the journal a run may go on without saying again what stands around its texts
)

#: A write that changes nothing, refused where nothing may be written; BEGIN IMMEDIATE is content to read there.
WRITE_NOTHING = "DELETE FROM streams WHERE 0"
BEGIN_WRITE = "BEGIN IMMEDIATE"
BEGIN_READ = "BEGIN"
COMMIT = "COMMIT"
ROLLBACK = "ROLLBACK"

# the journal

#: Fence and write in one statement: it writes nothing where a claim has been made since the one that we know of.
JOURNAL_UNLESS_CLAIMED = """
    INSERT INTO journal (owner, body) SELECT ?, ? WHERE (SELECT claims FROM fences) = ?
"""
JOURNAL = "INSERT INTO journal (owner, body) VALUES (?, ?)"
JOURNAL_LAST = "SELECT coalesce(max(id), 0) FROM journal"
JOURNAL_BEHIND = "SELECT id, body FROM journal WHERE id > ? ORDER BY id"
JOURNAL_OF_OWNER = "SELECT id FROM journal WHERE id > ? AND owner = ? AND body = ?"
#: Never the newest row: the next id is the largest one and one more, and must not come twice.
DROP_JOURNAL = """
    DELETE FROM journal WHERE id >= ? AND id < ? AND owner = ? AND id < (SELECT max(id) FROM journal)
"""

#: Rows of those who are gone: all that lives has been gathered beyond them.
DROP_ORPHANS = """
    DELETE FROM journal WHERE id < (SELECT max(id) FROM journal) - ?
        AND id <= coalesce((SELECT min(gathered) FROM streams WHERE ended_at IS NULL), id)
        AND owner NOT IN (SELECT id FROM owners)
"""

# streams

_STREAM = "SELECT number, id, owner, epoch, last, gathered, bytes, account, watched_until, ended_at FROM streams"
_STATUS = """
    SELECT number, streams.id, owner, epoch, last, gathered, bytes, account, watched_until, ended_at, record,
        coalesce(lease_until, 0)
    FROM streams {by} JOIN records ON records.stream = number LEFT JOIN owners ON owners.id = owner
"""
_ANY = _STATUS.format(by="")
#: In order of their numbers SQLite would rather look at all rows, of which nearly all are of streams that have ended.
_LIVE = f"{_STATUS.format(by='INDEXED BY streams_live')} WHERE ended_at IS NULL"
STREAM = f"{_STREAM} WHERE id = ?"
STATUS = f"{_ANY} WHERE streams.id = ?"
STATUS_OF_CLAIM = f"{_ANY} WHERE claim = ?"
STATUS_OF_LIVE = f"{_LIVE} ORDER BY number"
STATUS_OF_LAPSED = f"{_LIVE} AND coalesce(lease_until, 0) <= ? ORDER BY number"
LIVE_OF_OWNER = f"{_STREAM} WHERE owner = ? AND ended_at IS NULL"
LIVE_NUMBERS_OF_OWNER = "SELECT number, epoch FROM streams WHERE owner = ? AND ended_at IS NULL"
CREATE_STREAM = """
    INSERT INTO streams (id, claim, owner, epoch, last, gathered, bytes, account, watched_until)
    VALUES (?, ?, ?, 1, 0, (SELECT coalesce(max(id), 0) FROM journal), ?, x'', 0)
"""
CREATE_RECORD = "INSERT INTO records (stream, record) VALUES (?, ?)"
#: Nothing where the stream is somebody else's by now, or somebody else has gathered it.
GATHER = """
    UPDATE streams SET last = ?, gathered = ?, bytes = ?, account = coalesce(?, account), ended_at = ?
    WHERE number = ? AND epoch = ? AND last = ? AND gathered < ?
"""
TAKE = "UPDATE streams SET owner = ?, epoch = epoch + 1 WHERE number = ?"
RELEASE = "UPDATE streams SET owner = '' WHERE id = ? AND owner = ? AND epoch = ?"
WATCH = "UPDATE streams SET watched_until = ? WHERE id = ? AND watched_until < ?"
#: Bytes of streams that have not ended, those of one owner left out: it knows its own better.
LIVE_BYTES_OF_OTHERS = "SELECT coalesce(sum(bytes), 0) FROM streams WHERE ended_at IS NULL AND owner <> ?"
EXPIRED = "SELECT number FROM streams WHERE ended_at < ? ORDER BY ended_at LIMIT ?"
REMOVE = (
    "DELETE FROM segments WHERE stream = ?",
    "DELETE FROM records WHERE stream = ?",
    "DELETE FROM streams WHERE number = ?",
)

# segments

CREATE_SEGMENT = "INSERT INTO segments (stream, first, last, blocks, notes) VALUES (?, ?, ?, ?, ?)"
SEGMENTS_BEHIND = "SELECT first, blocks FROM segments WHERE stream = ? AND last > ? ORDER BY id"
SEGMENTS = "SELECT blocks, notes FROM segments WHERE stream = ? ORDER BY id"
SEGMENT_COUNT = "SELECT count(*) FROM segments WHERE stream = ?"
NOTES = "SELECT notes FROM segments WHERE stream = ? AND notes <> x'' ORDER BY id"
DROP_SEGMENTS = "DELETE FROM segments WHERE stream = ?"

# owners

CLAIMS = "SELECT claims FROM fences"
COUNT_CLAIM = "UPDATE fences SET claims = claims + 1"
RENEW = """
    INSERT INTO owners (id, lease_until) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET lease_until = excluded.lease_until
"""
LEASE = "SELECT coalesce((SELECT lease_until FROM owners WHERE id = ?), 0)"
LAPSED_OWNERS = "SELECT id FROM owners WHERE lease_until <= ? AND id <> ?"
DROP_OWNER = "DELETE FROM owners WHERE id = ?"

# responses

PUT_RESPONSE = "INSERT INTO responses (id, owner, body, items, bytes, at, last_used) VALUES (?, ?, ?, ?, ?, ?, ?)"
GET_RESPONSE = "SELECT body, items FROM responses WHERE id = ? AND owner = ? AND at >= ?"
USE_RESPONSE = "UPDATE responses SET last_used = ? WHERE id = ?"
DELETE_RESPONSE = "DELETE FROM responses WHERE id = ? AND owner = ?"
DROP_RESPONSE = "DELETE FROM responses WHERE id = ?"
DROP_OLD_RESPONSES = "DELETE FROM responses WHERE at < ?"
RESPONSES_TOTAL = "SELECT number, bytes FROM responses_total"
LEAST_USED_RESPONSE = "SELECT id FROM responses ORDER BY last_used, rowid LIMIT 1"

# the file

SCHEMA_OBJECTS = "SELECT count(*) FROM sqlite_master"
GET_VERSION = "PRAGMA user_version"
GET_APPLICATION = "PRAGMA application_id"
SET_VERSION = f"PRAGMA user_version = {SCHEMA_VERSION}"
SET_APPLICATION = f"PRAGMA application_id = {APPLICATION_ID}"
#: Before the first table: what is deleted can be given back to the disk piece by piece.
SET_VACUUM = "PRAGMA auto_vacuum = incremental"
SET_WAL = "PRAGMA journal_mode = wal"
SET_SYNCHRONOUS = {"normal": "PRAGMA synchronous = normal", "full": "PRAGMA synchronous = full"}
SET_WAL_LIMIT = "PRAGMA journal_size_limit = 67108864"
#: 16 MiB, four times as many pages as by default: a page that is written again and again is copied back so much less.
SET_CHECKPOINT = "PRAGMA wal_autocheckpoint = 4000"
COUNT_PAGES = "SELECT page_count, freelist_count FROM pragma_page_count, pragma_freelist_count"
GIVE_BACK_PAGES = "PRAGMA incremental_vacuum(512)"

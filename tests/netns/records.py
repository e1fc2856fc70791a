"""What accounting has of the calls: a line in the file and a row in the database for each that was answered, once."""
import json
import os
import sqlite3

import paths
from daemons import LINES, ROWS
from script import CALLEE, CALLER, Ended


def of_file(folder):
    path = os.path.join(folder, LINES)
    if not os.path.exists(path):
        return []
    with open(path) as f:
        return [json.loads(line) for line in f]


def of_database(folder):
    """Rows (call_id, from_tag, to_tag, info)."""
    with sqlite3.connect(os.path.join(folder, ROWS)) as database:
        rows = database.execute('SELECT call_id, from_tag, to_tag, info FROM media_sessions')
        return [(call, caller, callee, json.loads(info)) for call, caller, callee, info in rows]


def judge(folder, pairs, is_answered, relay_logs):
    """What is wrong with the records of these calls."""
    bad = []
    lines, rows = of_file(folder), of_database(folder)
    for caller, _ in pairs:
        call = caller.call
        ours = [line for line in lines if line['call_id'] == call.call_id]
        stored = [row for row in rows if row[0] == call.call_id]
        wanted = 1 if is_answered(call) else 0
        if (len(ours), len(stored)) != (wanted, wanted):
            bad.append('call %d has %d lines in the file of accounting and %d rows in the database, not %d'
                       % (call.number, len(ours), len(stored), wanted))
            continue
        if wanted:
            bad += ['the record of call %d: %s' % (call.number, text) for text in record(call, ours[0], stored[0], relay_logs)]
    if len(lines) != len(rows):
        bad.append('the file of accounting has %d lines, the database %d rows' % (len(lines), len(rows)))
    return bad


def record(call, line, row, relay_logs):
    if row[3] != line:
        yield 'the database has %s, the file %s' % (row[3], line)
    tags = call.tags[CALLER], call.tags[CALLEE] if line['to_tag'] else None
    if tuple(row[1:3]) != tags or (line['from_tag'], line['to_tag']) != tags:
        yield 'has the tags %s, not %s' % (row[1:3], tags)
    last_words = paths.last_words(relay_logs, call.call_id)
    if line.get('relay_lost'):
        if not call.rules.get('relay_gone'):
            yield 'says that its relay was lost'
    elif last_words is None:
        yield 'the relay never told of the end of the call'
    elif any(line[key] != value for key, value in last_words.items()):
        yield 'differs from what the relay told: %s, %s' % (line, last_words)
    # A call that its relay ended has timed out, unless the relay was lost; no other has, whoever ended it.
    by_silence = any(isinstance(step, Ended) and step.by == 'silence' for step in call.steps)
    wanted = call.rules.get('timed_out', by_silence) and not line.get('relay_lost')
    if line['timed_out'] is not bool(wanted):
        yield 'says that the call %s' % ('has not timed out' if wanted else 'timed out')

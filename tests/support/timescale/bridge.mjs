// Lets PostgreSQL clients speak to PGlite with TimescaleDB: one database in this process, for tests.
//
//   node bridge.mjs MODULES DATA [PORT WAIT_MS]     without a port: make the data folder and end
//
// PGlite has one backend, so transactions of all connections run one after the other; while one is open the others
// wait, and after WAIT_MS they are told so (55P03) instead of hanging. It cannot show concurrency, locks or speed.
// Whole messages go to the backend, and COPY … FROM STDIN in one piece: half a message crashes it.
// Each connection has its own prepared statements and start-up settings. Not kept apart: SET outside a transaction,
// advisory locks of a session, temporary tables, LISTEN. Not possible: other databases, cancelling, TLS.

import { createHash } from 'node:crypto'
import { createServer } from 'node:net'
import path from 'node:path'
import { pathToFileURL } from 'node:url'

const HOST = '127.0.0.1'
const DATABASE = 'postgres'
const DEFAULTS = [ // what PGlite's own command line turns, as PostgreSQL has it
  ['search_path', '"$user", public'],
  ['enable_seqscan', 'on'],
  ['allow_system_table_mods', 'off'],
  ['log_min_messages', 'warning'],
]
const MESSAGE_BYTES = 256 * 1024 * 1024 // a longer message is taken for garbage

const [modules, data, port, waitMs] = process.argv.slice(2)
const packageUrl = (file) => pathToFileURL(path.join(modules, '@unni-craftsman', 'pglite', 'dist', file)).href
const { PGlite } = await import(packageUrl('index.js'))
const { timescaledb } = await import(packageUrl('timescaledb/index.js'))

// --- messages ---------------------------------------------------------------------------------------------------

const message = (type, ...parts) => {
  const body = Buffer.concat(parts.map((part) => (typeof part === 'string' ? Buffer.from(`${part}\0`) : part)))
  const head = Buffer.alloc(5)
  head.write(type)
  head.writeInt32BE(body.length + 4, 1)
  return Buffer.concat([head, body])
}
const query = (sql) => message('Q', sql)
const literal = (text) => `'${text.replaceAll("'", "''")}'`
const SYNC = message('S')
const FLUSH = message('H')
const READY = message('Z', Buffer.from('I'))
const failure = (severity, code, text) =>
  message('E', `S${severity}`, `V${severity}`, `C${code}`, `M${text}`, Buffer.from([0]))
const fatal = (code, text) => failure('FATAL', code, text)

// The messages in `bytes`, each with its type, its body and its bytes.
function* messagesIn(bytes) {
  for (let at = 0; at < bytes.length; ) {
    const end = at + 1 + bytes.readInt32BE(at + 1)
    yield { type: String.fromCharCode(bytes[at]), body: bytes.subarray(at + 5, end), bytes: bytes.subarray(at, end) }
    at = end
  }
}

const textAt = (body, from) => body.toString('utf8', from, body.indexOf(0, from))
const withName = (type, body, from, name) =>
  message(type, body.subarray(0, from), name, body.subarray(body.indexOf(0, from) + 1))

// --- the backend ------------------------------------------------------------------------------------------------

const db = await PGlite.create({ dataDir: data, extensions: { timescaledb } })
await db.exec("LOAD 'timescaledb'") // first of all: what is under the Timescale licence (compression …) comes only with it
await db.exec('CREATE EXTENSION IF NOT EXISTS timescaledb')
if (port === undefined) {
  await db.close()
  process.exit(0)
}

// What the backend says to some messages, without its debugging notices.
async function ask(...messages) {
  const said = Buffer.from(await db.execProtocolRaw(new Uint8Array(Buffer.concat(messages))))
  return [...messagesIn(said)].filter(({ type, body }) => !(type === 'N' && body.toString('latin1', 0, 6) === 'SDEBUG'))
}

const startup = Buffer.from(`\0\0\0\0\0\x03\0\0user\0postgres\0database\0${DATABASE}\0\0`, 'latin1')
startup.writeInt32BE(startup.length)
const [challenge] = await ask(startup)
const md5 = (...parts) => createHash('md5').update(Buffer.concat(parts)).digest('hex')
const password = `md5${md5(Buffer.from(md5(Buffer.from('postgres'))), challenge.body.subarray(4, 8))}`
const greeting = (await ask(message('p', password))).filter(({ type }) => type === 'S')

// --- one at a time ----------------------------------------------------------------------------------------------

const waiting = [] // sessions that have something complete to say, in the order in which it was complete
let holder = null // the session whose transaction is open
let latest = null // the session that spoke last
let busy = false

function enqueue(session) {
  if (!waiting.includes(session)) {
    waiting.push(session)
    session.patience = setTimeout(() => giveUp(session), Number(waitMs))
  }
  void turn()
}

function giveUp(session) {
  if (holder === session || session.ended) return
  waiting.splice(waiting.indexOf(session), 1)
  session.write(failure('ERROR', '55P03', `waited ${waitMs} ms for another connection's transaction; this test server runs one at a time`))
  if (session.units.some(({ flush }) => flush)) session.skipping = true
  else session.write(READY)
  session.units = []
}

async function turn() {
  if (busy) return
  busy = true
  try {
    for (;;) {
      const at = holder === null ? 0 : waiting.indexOf(holder)
      const session = waiting[at]
      if (session === undefined) return
      waiting.splice(at, 1)
      clearTimeout(session.patience)
      if (latest !== session) {
        for (const { type, body } of await ask(query('RESET ALL'), ...[...DEFAULTS, ...session.settings].map(setting)))
          if (type === 'E') console.error(`connection ${session.id}: ${body.toString().replaceAll('\0', ' ')}`)
        latest = session
      }
      while (session.units.length > 0 && (holder === null || holder === session)) await serve(session)
      if (session.units.length > 0) enqueue(session)
      if (session.ended && session.units.length === 0) await forget(session)
    }
  } finally {
    busy = false
  }
}

const setting = ([name, value]) => query(`SELECT set_config(${literal(name)}, ${literal(value)}, false)`)

async function serve(session) {
  const unit = session.units.shift()
  if (unit.unnamed) await ask(message('C', Buffer.from('S'), session.named('')), FLUSH)
  const answers = await ask(...unit.messages)
  const state = answers.findLast(({ type }) => type === 'Z')?.body.toString()
  if (state !== undefined) session.state = state
  // A flush leaves the backend inside of an implicit transaction: end it, so that others may go on.
  if (unit.flush && session.state === 'I') await ask(SYNC)
  holder = session.state === 'I' ? null : session
  if (answers.some(({ type, body }) => type === 'C' && /^(RESET|DISCARD ALL)\0/.test(body))) latest = null
  session.write(Buffer.concat(answers.map(({ bytes }) => bytes)))
}

// What a connection leaves behind must not meet the next one.
async function forget(session) {
  if (session.forgotten) return
  session.forgotten = true
  await ask(SYNC, query('ROLLBACK'))
  for (const name of session.statements) await ask(message('C', Buffer.from('S'), name), SYNC)
  if (holder === session) holder = null
  if (--connected === 0) await ask(query('DISCARD ALL'))
}

// --- connections ------------------------------------------------------------------------------------------------

let sessions = 0
let connected = 0

class Session {
  id = ++sessions
  settings = []
  state = 'I' // of its transaction, as in ReadyForQuery
  statements = new Set() // names of its prepared statements, as the backend knows them
  units = [] // what is complete: ends with a query, a sync or a flush
  unit = { messages: [] }
  copying = false
  skipping = false // after an error, up to the next sync
  started = false
  ended = false
  unread = Buffer.alloc(0)

  constructor(socket) {
    this.socket = socket
    connected++
    socket.setNoDelay(true)
    socket.on('data', (bytes) => this.read(bytes))
    socket.on('error', () => {}) // 'close' follows
    socket.on('close', () => this.leave())
  }

  write(bytes) {
    if (!this.socket.destroyed) this.socket.write(bytes)
  }

  end(lastWords) {
    if (!this.socket.destroyed) this.socket.end(lastWords)
    this.leave()
  }

  leave() {
    if (this.ended) return
    this.ended = true
    clearTimeout(this.patience)
    this.units = []
    enqueue(this)
  }

  named(name) {
    return `c${this.id}_${name}`
  }

  read(bytes) {
    if (this.ended) return
    this.unread = Buffer.concat([this.unread, bytes])
    for (;;) {
      const from = this.started ? 1 : 0
      if (this.unread.length < from + 4) return
      const end = from + this.unread.readInt32BE(from)
      if (end < from + 4 || end - from > MESSAGE_BYTES) return this.end(fatal('08P01', 'not a message of the protocol'))
      if (this.unread.length < end) return
      const whole = this.unread.subarray(0, end)
      this.unread = this.unread.subarray(end)
      if (this.started) this.take(String.fromCharCode(whole[0]), whole.subarray(5), whole)
      else this.start(whole)
      if (this.ended) return
    }
  }

  start(whole) {
    const code = whole.readInt32BE(4)
    if (code === 80877103 || code === 80877104) return this.write(Buffer.from('N')) // no TLS, no GSS
    if (code !== 196608) return this.end() // a request to cancel; what runs here cannot be interrupted
    const words = whole.toString('utf8', 8).split('\0')
    const given = new Map()
    for (let at = 0; words[at]; at += 2) given.set(words[at], words[at + 1])
    const database = given.get('database') ?? given.get('user')
    if (database !== DATABASE) return this.end(fatal('3D000', `database "${database}" does not exist; there is only "${DATABASE}"`))
    for (const option of given.get('options')?.matchAll(/(?:-c\s*|--)([\w.]+)=((?:\\.|\S)*)/g) ?? [])
      this.settings.push([option[1], option[2].replaceAll(/\\(.)/g, '$1')])
    for (const [name, value] of given)
      if (!['user', 'database', 'client_encoding', 'options', 'replication'].includes(name)) this.settings.push([name, value])
    this.started = true
    const key = Buffer.alloc(8)
    key.writeInt32BE(this.id)
    const parameters = greeting.map(({ bytes }) => bytes)
    this.write(Buffer.concat([message('R', Buffer.alloc(4)), ...parameters, message('K', key), READY]))
  }

  take(type, body, whole) {
    if (type === 'X') return this.end()
    if (this.skipping) {
      if (type === 'S') {
        this.skipping = false
        this.unit = { messages: [] }
        this.write(READY)
      }
      return
    }
    let told = whole
    if (type === 'P') {
      const name = this.named(textAt(body, 0))
      this.statements.add(name)
      if (body[0] === 0) this.unit.unnamed = true
      told = withName('P', body, 0, name)
    } else if (type === 'B') {
      const from = body.indexOf(0) + 1
      told = withName('B', body, from, this.named(textAt(body, from)))
    } else if ((type === 'D' || type === 'C') && body[0] === 0x53) {
      told = withName(type, body, 1, this.named(textAt(body, 1)))
    }
    this.unit.messages.push(told)
    if (type === 'Q') this.copying = /^\s*COPY\b[^;]*\bFROM\s+STDIN\b/i.test(textAt(body, 0))
    else if (type === 'c' || type === 'f') this.copying = false
    const complete = type === 'Q' || type === 'S' || type === 'H' || type === 'c' || type === 'f'
    if (!complete || this.copying) return
    this.unit.flush = type === 'H'
    this.units.push(this.unit)
    this.unit = { messages: [] }
    enqueue(this)
  }
}

const server = createServer((socket) => new Session(socket))
server.on('error', (error) => {
  console.error(error)
  process.exit(1)
})
server.listen(Number(port), HOST, () => console.log(`listening on ${HOST}:${port}`))

for (const signal of ['SIGTERM', 'SIGINT']) {
  process.on(signal, () => {
    server.close()
    void db.close().finally(() => process.exit(0))
  })
}

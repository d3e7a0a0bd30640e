// A real coordinator, runner, engine and browser, each test file in a world of its own.
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { chromium } from 'playwright-core';

const programs = process.env.CAISSON_BIN ?? new URL('../../target/debug', import.meta.url).pathname;
const browserPath = process.env.CHROMIUM ?? '/usr/bin/chromium';

/** Waits until `look` gives something, and gives that. */
export async function eventually(what, look, within = 30_000) {
  const deadline = Date.now() + within;
  for (;;) {
    const found = await look();
    if (found) return found;
    if (Date.now() > deadline) throw new Error(`in ${within} ms not seen: ${what}`);
    await pause(50);
  }
}

/** Waits until `look` gives what is expected, or a text that matches it; where it never does, tells what it gave last. */
export async function becomes(look, expected, within = 30_000) {
  const deadline = Date.now() + within;
  for (;;) {
    const given = await look();
    try {
      return expected instanceof RegExp ? assert.match(given, expected) : assert.deepEqual(given, expected);
    } catch (difference) {
      if (Date.now() > deadline) throw difference;
    }
    await pause(50);
  }
}

/** What the page has put on the clipboard, once that is of the kind that is waited for. */
export function copied(page, kind) {
  return eventually(`something like ${kind} is copied`, async () => {
    const text = await page.evaluate(() => navigator.clipboard.readText());
    return kind.test(text) && text;
  });
}

/** How long a process may take to go before it is killed. */
const PATIENCE_MS = 15_000;

export class World {
  folder = mkdtempSync(join(tmpdir(), 'caisson-e2e-'));
  settings;
  processes = new Map();
  browser;
  /** What the browser complained of: nothing, or a test fails. */
  complaints = [];

  static async start({ settings = [], runners = 1, capacity = 2 } = {}) {
    const world = new World();
    world.settings = settings;
    world.makeRepository();
    await world.startCoordinator('127.0.0.1:0');
    for (let number = 1; number <= runners; number += 1) await world.startRunner(`host-${number}`, capacity);
    world.browser = await chromium.launch({ executablePath: browserPath, args: ['--no-sandbox', '--disable-dev-shm-usage'] });
    return world;
  }

  async stop() {
    await this.browser?.close();
    await this.cancelAll().catch((error) => console.error(`builds may be left behind: ${error.message}`));
    // A runner that is told to go takes its network along.
    for (const name of [...this.processes.keys()].reverse()) await this.end(name, name === 'coordinator' ? 'SIGKILL' : 'SIGTERM');
    rmSync(this.folder, { recursive: true, force: true });
  }

  /** A runner that is killed leaves its containers to its next start, and there is none. */
  async cancelAll() {
    const active = async () => (await this.ask('/builds?status=queued,assigned,running,canceling&limit=100')).builds;
    for (const { id } of await active()) await this.ask(`/builds/${id}/cancel`, 'POST');
    await eventually('no build is left', async () => (await active()).length === 0);
    // Containers are removed after the end is told.
    await pause(1000);
  }

  makeRepository() {
    this.repository = `file://${this.folder}/team/app`;
    const at = join(this.folder, 'team/app');
    mkdirSync(at, { recursive: true });
    const git = (...words) => execFileSync('git', ['-c', 'user.name=a', '-c', 'user.email=a@example.org', '-C', at, ...words]);
    git('init', '--quiet', '--initial-branch=main');
    writeFileSync(join(at, 'README.md'), 'hello from the repository\n');
    git('add', '.');
    git('commit', '--quiet', '--message', 'Say hello');
  }

  async startCoordinator(listen) {
    rmSync(this.path('data/address'), { force: true });
    const set = ['git.allow_file_urls=true', 'build.image=caisson-busybox:test', ...this.settings].flatMap((setting) => ['--set', setting]);
    this.launch('coordinator', ['--listen', listen, '--data-dir', this.path('data'), ...set]);
    await eventually('the coordinator is ready', async () => {
      if (!existsSync(this.path('data/address'))) return false;
      this.base = `http://${readFileSync(this.path('data/address'), 'utf8').trim()}`;
      return (await fetch(`${this.base}/readyz`).catch(() => null))?.ok;
    });
    this.token = readFileSync(this.path('data/admin-token'), 'utf8').trim();
  }

  async restartCoordinator(away = 1500) {
    await this.end('coordinator', 'SIGKILL');
    await pause(away);
    await this.startCoordinator(new URL(this.base).host);
  }

  async startRunner(name, capacity, settings = []) {
    const set = ['git.allow_file_urls=true', ...settings].flatMap((setting) => ['--set', setting]);
    this.launch('runner', ['--coordinator-url', this.base, '--token-file', this.path('data/runner-token'), '--name', name, '--capacity', String(capacity), '--work-dir', this.path(name), ...set], name);
    await eventually(`${name} is there`, async () => (await this.ask('/runners')).runners.some((runner) => runner.name === name));
  }

  path(name) {
    return join(this.folder, name);
  }

  launch(program, words, name = program) {
    const log = openSync(this.path(`${name}.log`), 'a');
    this.processes.set(name, spawn(join(programs, `caisson-${program}`), words, { stdio: ['ignore', log, log] }));
  }

  async end(name, signal) {
    const process = this.processes.get(name);
    this.processes.delete(name);
    if (!process || process.exitCode !== null) return;
    const ended = new Promise((resolve) => process.once('exit', resolve));
    process.kill(signal);
    const late = setTimeout(() => process.kill('SIGKILL'), PATIENCE_MS);
    await ended;
    clearTimeout(late);
  }

  /** The first line of the coordinator's log that holds the sign-in link. */
  signInLink() {
    return /sign in: (\S+)/.exec(readFileSync(this.path('coordinator.log'), 'utf8'))[1];
  }

  async ask(path, method = 'GET', body = undefined) {
    const answer = await fetch(`${this.base}/api/v1${path}`, { method, headers: { authorization: `Bearer ${this.token}` }, body: body && JSON.stringify(body) });
    if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${await answer.text()}`);
    return answer.status === 204 ? null : answer.json();
  }

  submit(command, more = {}) {
    return this.ask('/builds', 'POST', { repository_url: this.repository, commit: 'main', command, ...more });
  }

  ended(number, within = 60_000) {
    return eventually(`build ${number} has ended`, async () => {
      const build = await this.ask(`/builds/${number}`);
      return build.finished_at && build;
    }, within);
  }

  /** A window of a person who is signed in. */
  async person(look = {}, credentials = { token: this.token }) {
    const page = await this.stranger(look);
    const answer = await page.context().request.post(`${this.base}/api/v1/session`, { data: credentials });
    if (!answer.ok()) throw new Error(`not signed in: ${answer.status()} ${await answer.text()}`);
    return page;
  }

  async stranger({ colorScheme = 'light', width = 1280, height = 860, deviceScaleFactor = 1, reducedMotion = 'reduce' } = {}) {
    const context = await this.browser.newContext({ baseURL: this.base, colorScheme, viewport: { width, height }, deviceScaleFactor, reducedMotion, permissions: ['clipboard-read', 'clipboard-write'] });
    context.setDefaultTimeout(20_000);
    const page = await context.newPage();
    page.on('pageerror', (error) => this.complaints.push(error.message));
    page.on('console', (message) => {
      // What the network says is said of a coordinator that is away, or of an answer that is a refusal.
      if (message.type() === 'error' && !/Failed to load resource|WebSocket connection/.test(message.text())) this.complaints.push(message.text());
    });
    return page;
  }
}

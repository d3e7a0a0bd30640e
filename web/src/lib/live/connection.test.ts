import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { Connection, type ConnectionState, type Socket } from './connection';

interface Told {
  seq: number;
  type: string;
}
class FakeSocket implements Socket {
  onmessage: Socket['onmessage'] = null;
  onclose: Socket['onclose'] = null;
  closed = false;
  close() {
    this.closed = true;
  }
  says(seq: number, type = 'build') {
    this.onmessage?.({ data: JSON.stringify({ seq, type }) } as MessageEvent);
  }
  breaks() {
    this.onclose?.({} as CloseEvent);
  }
}

let sockets: FakeSocket[];
let heard: string[];
let states: ConnectionState[];
let mayStay: boolean;
let connection: Connection<Told>;
const last = () => sockets.at(-1)!;
const settled = () => vi.advanceTimersByTimeAsync(0);

beforeEach(() => {
  vi.useFakeTimers();
  [sockets, heard, states, mayStay] = [[], [], [], true];
  const open = () => {
    sockets.push(new FakeSocket());
    return last();
  };
  connection = new Connection<Told>(open, { event: ({ seq, type }) => heard.push(`${type} ${seq}`), state: (state) => states.push(state), refused: async () => mayStay }, () => 0.5);
  connection.start();
});
afterEach(() => vi.useRealTimers());

test('what is told in order is passed on', () => {
  last().says(7, 'snapshot');
  last().says(8);
  expect(heard).toEqual(['snapshot 7', 'build 8']);
  expect(states).toEqual(['connecting', 'live']);
});

test('a missed change brings a new snapshot, and nothing is passed on before it', () => {
  last().says(7, 'snapshot');
  const before = last();
  before.says(9);
  expect(before.closed).toBe(true);
  last().says(9, 'snapshot');
  expect(heard).toEqual(['snapshot 7', 'snapshot 9']);
});

test('a lost connection is told and made again, ever more patiently', async () => {
  last().says(1, 'snapshot');
  last().breaks();
  await settled();
  expect(states.at(-1)).toBe('lost');
  await vi.advanceTimersByTimeAsync(250);
  expect(sockets.length).toBe(2);
  last().breaks();
  await vi.advanceTimersByTimeAsync(400);
  expect(sockets.length).toBe(2);
  await vi.advanceTimersByTimeAsync(100);
  expect(sockets.length).toBe(3);
  expect(states.at(-1)).toBe('lost');
  last().says(1, 'snapshot');
  expect(states.at(-1)).toBe('live');
});

test('who hurries does not wait', async () => {
  last().breaks();
  await settled();
  connection.hurry();
  expect(sockets.length).toBe(2);
  connection.hurry();
  expect(sockets.length).toBe(2);
});

test('who is not signed in any more is not tried again', async () => {
  mayStay = false;
  last().breaks();
  await vi.advanceTimersByTimeAsync(60_000);
  expect(sockets.length).toBe(1);
});

test('a stopped one stays stopped', async () => {
  connection.stop();
  expect(last().closed).toBe(true);
  await vi.advanceTimersByTimeAsync(60_000);
  expect(sockets.length).toBe(1);
});

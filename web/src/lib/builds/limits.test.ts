import { describe, expect, test } from 'vitest';
import { read, written } from './limits';

describe('limits', () => {
  test('read back as they are written', () => {
    const all = { memory_bytes: 536_870_912, cpus: 1.5, pids: 200, nofile: 1024, shm_bytes: 65_537, disk_bytes: 2 ** 40, log_bytes: 65_536 };
    const text = 'memory 512MiB, cpus 1.5, pids 200, nofile 1024, shm 65537B, disk 1TiB, log 64KiB';
    expect(written(all)).toBe(text);
    expect(read(text)).toEqual(all);
    expect([written({}), read(' \n ')]).toEqual(['', {}]);
  });
  test('are read as people write them', () => {
    expect(read('memory=1.5gib\nCPUs: 2')).toEqual({ memory_bytes: 1_610_612_736, cpus: 2 });
  });
  test('that can not be read say how they are written', () => {
    for (const wrong of ['memory', 'memory 512', 'memory much', 'cpus', 'cpus many', 'cpus 2GiB', 'gpu 1', '512MiB', 'constructor 1', 'pids -5']) {
      expect(read(wrong), wrong).toMatchObject({ field: 'limits', message: expect.stringContaining('memory 512MiB') as string });
    }
  });
});

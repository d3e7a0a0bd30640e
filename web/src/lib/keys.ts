/** Shortcuts: single keys, and `g` followed by one. Never while somebody types, never with a modifier. */
export type Shortcuts = Record<string, () => void>;

const SEQUENCE_MS = 900;

export function isTyping(target: EventTarget | null): boolean {
  return target instanceof HTMLElement && (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName));
}

/** Listens until the function it gives is called. */
export function listen(shortcuts: Shortcuts): () => void {
  let prefix: string | null = null;
  let timer: ReturnType<typeof setTimeout> | undefined;
  const press = (event: KeyboardEvent) => {
    if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
    if (document.querySelector('dialog[open]')) return;
    const name = prefix ? `${prefix} ${event.key}` : event.key;
    prefix = null;
    clearTimeout(timer);
    if (event.key === 'g' && name === 'g' && Object.keys(shortcuts).some((key) => key.startsWith('g '))) {
      prefix = 'g';
      timer = setTimeout(() => (prefix = null), SEQUENCE_MS);
      return;
    }
    const action = shortcuts[name];
    if (!action) return;
    event.preventDefault();
    action();
  };
  document.addEventListener('keydown', press);
  return () => {
    clearTimeout(timer);
    document.removeEventListener('keydown', press);
  };
}

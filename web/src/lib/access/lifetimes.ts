/** How long what is made may be used. */
export const LIFETIMES = [
  { value: '1', name: 'in a day' },
  { value: '7', name: 'in 7 days' },
  { value: '30', name: 'in 30 days' },
  { value: '90', name: 'in 90 days' },
  { value: '365', name: 'in a year' },
  { value: '', name: 'never' },
];

/** The part of a request that says so. */
export const seconds = (days: string): { expires_in_seconds?: number } => (days === '' ? {} : { expires_in_seconds: Number(days) * 86_400 });

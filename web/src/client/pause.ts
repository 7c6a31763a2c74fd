/** Waits, unless told otherwise; tests tell otherwise. */
export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

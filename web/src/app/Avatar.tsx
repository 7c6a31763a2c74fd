/** A person's initials on one of six colours, the same for the same person everywhere. */
export function Avatar({ userId, size = "medium" }: { userId: string; size?: "medium" | "large" | "huge" }) {
  return (
    <span className={`avatar ${size} hue-${hueOf(userId)}`} aria-hidden="true">
      {initials(userId)}
    </span>
  );
}

function initials(userId: string): string {
  const words = userId.split(/[^\p{L}\p{N}]+/u).filter(Boolean);
  const letters = words.length > 1 ? words.slice(0, 2).map((word) => [...word][0]) : [...(words[0] ?? "?")].slice(0, 2);
  return letters.join("").toUpperCase();
}

function hueOf(userId: string): number {
  let sum = 0;
  for (const char of userId) sum = (sum * 31 + (char.codePointAt(0) ?? 0)) % 9973;
  return sum % 6;
}

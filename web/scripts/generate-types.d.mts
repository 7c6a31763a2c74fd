export function generate(): Promise<Record<"http.ts" | "socket.ts", string>>;

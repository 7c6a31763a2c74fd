/** Light, dark, or whatever the device says: one attribute, which the stylesheet's `color-scheme` follows. */
export type Theme = "auto" | "light" | "dark";

const place = "callmeter.theme";

export function storedTheme(): Theme {
  const value = localStorage.getItem(place);
  return value === "light" || value === "dark" ? value : "auto";
}

export function applyStoredTheme(): void {
  document.documentElement.dataset["theme"] = storedTheme();
}

export function setTheme(theme: Theme): void {
  localStorage.setItem(place, theme);
  applyStoredTheme();
}

/** What the eye sees now. */
export function isDark(): boolean {
  const theme = storedTheme();
  return theme === "auto" ? matchMedia("(prefers-color-scheme: dark)").matches : theme === "dark";
}

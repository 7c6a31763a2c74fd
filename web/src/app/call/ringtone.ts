/** Two soft notes, again and again; silent where the browser wants a touch first. */
import { useEffect } from "react";

const notesHz = [659.25, 783.99];
const everyMs = 2_400;

export function useRingtone(): void {
  useEffect(() => {
    const audio = new AudioContext();
    const ring = () => notesHz.forEach((hz, index) => playNote(audio, hz, audio.currentTime + index * 0.22));
    ring();
    const timer = setInterval(ring, everyMs);
    return () => {
      clearInterval(timer);
      void audio.close();
    };
  }, []);
}

function playNote(audio: AudioContext, hz: number, at: number): void {
  const oscillator = audio.createOscillator();
  const volume = audio.createGain();
  oscillator.frequency.value = hz;
  volume.gain.setValueAtTime(0, at);
  volume.gain.linearRampToValueAtTime(0.12, at + 0.02);
  volume.gain.exponentialRampToValueAtTime(0.0001, at + 0.9);
  oscillator.connect(volume).connect(audio.destination);
  oscillator.start(at);
  oscillator.stop(at + 1);
}

// When words were spoken, on this computer's clock. Updates say when their words stand in the speaker's audio
// (`auralink.start_ms`, `auralink.end_ms`, from the start of listening) and arrive a varying while later; the
// update that came soonest after its words fixes the offset between both clocks (the minimum filter of NTP's
// clock selection, RFC 5905 section 10). Rule: no time is later than the arrival of the words.

/** An update later than this does not belong to the same start of listening: captions were off in between. */
const RESTART_MS = 10_000;

export class SpeakerClock {
  private offsetMs = Number.POSITIVE_INFINITY;

  /** Milliseconds since 1970 at which the words began and ended, as far as is known by now. */
  place(startMs: number, endMs: number, arrivalMs: number): { startMs: number; endMs: number } {
    const offset = arrivalMs - endMs;
    this.offsetMs = offset - this.offsetMs > RESTART_MS ? offset : Math.min(this.offsetMs, offset);
    return { startMs: this.offsetMs + startMs, endMs: this.offsetMs + endMs };
  }
}

/** @file Reads a stream of server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html). */

/**
 * The data of each event. Lines end in CR, LF or both; a comment or another field is passed over.
 * @param {ReadableStream<Uint8Array<ArrayBuffer>>} stream bytes
 * @returns {AsyncGenerator<string>}
 */
export async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  /** @type {string[]} */
  let data = [];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      // A CR at the end of a piece may belong to an LF that comes next.
      const text = rest + (value ?? "");
      const held = !done && text.endsWith("\r") ? 1 : 0;
      const lines = text.slice(0, text.length - held).split(/\r\n|\r|\n/);
      rest = lines.pop() + (held ? "\r" : "");
      for (const line of lines) {
        if (line === "" && data.length > 0) {
          yield data.join("\n");
          data = [];
        } else if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
      }
      if (done) return;
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}

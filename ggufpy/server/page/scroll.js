/** @file Follows the end of the conversation while it grows, until the reader scrolls away. */
import { byId } from "./dom.js";

export class Scroll {
  constructor() {
    this.area = byId("scroll");
    this.button = byId("to-end");
    this.following = true;
    this.area.addEventListener("scroll", () => this.look(), { passive: true });
    this.button.addEventListener("click", () => {
      this.toEnd();
      byId("message").focus();
    });
    new ResizeObserver(() => this.follow()).observe(this.area);
    // Where a keyboard covers the page instead of shrinking it (iOS), the page is as high as what is seen.
    const seen = window.visualViewport;
    seen?.addEventListener("resize", () => document.documentElement.style.setProperty("--height", `${Math.round(seen.height)}px`));
  }

  get atEnd() {
    return this.area.scrollHeight - this.area.scrollTop - this.area.clientHeight < 40;
  }

  look() {
    this.following = this.atEnd;
    this.button.hidden = this.following;
  }

  follow() {
    if (this.following) this.area.scrollTop = this.area.scrollHeight;
    this.button.hidden = this.atEnd;
  }

  toEnd() {
    this.following = true;
    this.follow();
  }
}

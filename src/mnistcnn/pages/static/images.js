// Images of a sprite, one by one or as a list with captions.

// The image at a position of the sprite, `size` pixels wide.
function tile(position, size, label) {
  const { columns, rows, width, height } = data.sprite;
  const node = element("span", { class: `tile sprite${data.sprite.grey ? " grey" : ""}`, role: "img", "aria-label": label });
  const scale = size / width;
  node.style.width = `${size}px`;
  node.style.height = `${height * scale}px`;
  node.style.backgroundSize = `${columns * size}px ${rows * height * scale}px`;
  const [column, row] = [position % columns, Math.floor(position / columns)];
  node.style.backgroundPosition = `-${column * size}px -${row * height * scale}px`;
  return node;
}

const PAGE_SIZE = 48; // images that are shown at once

// Show images in a list; a button shows more. `card` returns the content of an item.
function imageList(container, images, card) {
  const list = element("ul", { class: "images" });
  const more = element("button", { type: "button" });
  container.replaceChildren(list, more);
  let shown = 0;
  const show = () => {
    const items = images.slice(shown, shown + PAGE_SIZE).map((image) => element("li", { tabindex: -1 }, ...card(image)));
    list.append(...items);
    shown += items.length;
    more.hidden = shown >= images.length;
    more.textContent = `Show more (${images.length - shown} left)`;
    return items[0];
  };
  more.addEventListener("click", () => {
    const first = show();
    if (more.hidden) first.focus(); // the button had the focus
  });
  show();
}

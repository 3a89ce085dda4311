// What a reload brings back: texts and choices in localStorage, files in IndexedDB.

const PREFIX = "humo.";
const memory = new Map();  // where the browser keeps nothing, such as in a private frame

export const local = {
  get(name, otherwise) {
    try {
      const text = localStorage.getItem(PREFIX + name);
      return text === null ? (memory.get(name) ?? otherwise) : JSON.parse(text);
    } catch {
      return memory.get(name) ?? otherwise;
    }
  },
  set(name, value) {
    memory.set(name, value);
    try {
      localStorage.setItem(PREFIX + name, JSON.stringify(value));
    } catch { /* kept in memory */ }
  },
};

let opened = null;

function database() {
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open("humo", 1);
    request.onupgradeneeded = () => request.result.createObjectStore("files");
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  return opened;
}

async function withStore(mode, action) {
  const transaction = (await database()).transaction("files", mode);
  const request = action(transaction.objectStore("files"));
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve(request.result);
    transaction.onerror = () => reject(transaction.error);
  });
}

export const files = {
  get: (name) => withStore("readonly", (store) => store.get(name)).catch(() => undefined),
  set: (name, value) => withStore("readwrite", (store) => store.put(value, name)).catch(() => undefined),
};

/** Return a function that runs the last call after a pause. */
export function debounced(action, milliseconds = 200) {
  let timer = 0;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...values), milliseconds);
  };
}

// A browser's module for `import()`: by its path, Node 18 would take a .js for CommonJS.
import { readFileSync } from 'node:fs'

export const code = (path) => 'data:text/javascript,' + encodeURIComponent(readFileSync(path, 'utf8'))

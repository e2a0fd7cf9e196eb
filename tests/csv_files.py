"Files as shops export them, written by tests."

import csv


def write(path, rows):
    "Rows as a CSV; columns in the order in which they first occur."
    headers = list(dict.fromkeys(k for r in rows for k in r))
    with open(path, 'w', encoding='utf-8', newline='') as f:
        writer = csv.DictWriter(f, headers, restval='')
        writer.writeheader()
        writer.writerows(rows)
    return path
